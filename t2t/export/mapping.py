"""Tables that map our parameters to the tensors of another library ("theirs"). Each family has one table, used in both directions.

A table is a list of entries. Each entry names one of their tensors, our parameters that it holds, and an invertible operation between them. In a
name, "{layer}" is the index into the leading axis "layers" of our parameters; in "block_{layer}" it has three digits, as in the first T5
checkpoints. "{expert}" is the index into the axis "experts" after it. Tensors are read and written one at a time.
"""

from __future__ import annotations

import abc
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from t2t.errors import UserError, nearest
from t2t.export.directory import flatten
from t2t.nn.model import ParamSpec

Shape = tuple[int, ...]
LAYER = "{layer}"
EXPERT = "{expert}"
Index = int | tuple[int, ...]


class Operation(abc.ABC):
    """Conversion between one of their tensors and one or more of our arrays, bitwise exact in both directions."""

    @abc.abstractmethod
    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Return our arrays, which have `shapes`."""

    @abc.abstractmethod
    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Return their tensor."""

    @abc.abstractmethod
    def shape(self, shapes: Sequence[Shape]) -> Shape:
        """Return the shape of their tensor."""


@dataclass(frozen=True)
class Same(Operation):
    """The identity."""

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Return the same array."""
        return [theirs]

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Return the same array."""
        return ours[0]

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        """Return the same shape."""
        return shapes[0]


@dataclass(frozen=True)
class Transposed(Operation):
    """A matrix with the output axis first, as in linear layers of PyTorch."""

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Return the transpose."""
        return [theirs.T]

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Return the transpose."""
        return ours[0].T

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        """Return the reversed shape."""
        return shapes[0][::-1]


@dataclass(frozen=True)
class Unsqueezed(Operation):
    """An array with `count` further axes of size 1 before its own."""

    count: int

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Return the array without these axes."""
        return [theirs.reshape(shapes[0])]

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Return the array with these axes."""
        return ours[0].reshape(*(1,) * self.count, *ours[0].shape)

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        """Return the shape with these axes."""
        return (*(1,) * self.count, *shapes[0])


@dataclass(frozen=True)
class Joined(Operation):
    """Our arrays concatenated along `axis`."""

    axis: int

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Split the tensor."""
        return np.split(theirs, np.cumsum([shape[self.axis] for shape in shapes])[:-1], self.axis)

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Concatenate the arrays."""
        return np.concatenate(ours, self.axis)

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        """Return the shape of the concatenation."""
        axis = self.axis % len(shapes[0])
        whole = sum(shape[axis] for shape in shapes)
        return (*shapes[0][:axis], whole, *shapes[0][axis + 1 :])


@dataclass(frozen=True)
class JoinedTransposed(Operation):
    """Our matrices side by side, with the output axis first, as in linear layers of PyTorch that compute several products at once."""

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Split the transpose."""
        return Joined(axis=-1).to_ours(theirs.T, shapes)

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Return the transpose of the concatenation."""
        return Joined(axis=-1).to_theirs(ours).T

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        """Return the reversed shape of the concatenation."""
        return Joined(axis=-1).shape(shapes)[::-1]


@dataclass(frozen=True)
class Interleaved(Operation):
    """Our matrices or biases with the output axis first, head by head: the first head of each of ours, then the second head of each (GPT-NeoX).

    The heads of ours may have different widths (Qwen3-Next).
    """

    heads: int

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Split the heads."""
        by_head = theirs.reshape(self.heads, -1, *theirs.shape[1:])
        parts = np.split(by_head, np.cumsum([shape[-1] // self.heads for shape in shapes])[:-1], axis=1)
        return [part.reshape(shape[::-1]).T for part, shape in zip(parts, shapes, strict=True)]

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Interleave the heads."""
        by_head = [one.T.reshape(self.heads, -1, *one.shape[:-1]) for one in ours]
        return np.concatenate(by_head, axis=1).reshape(-1, *ours[0].shape[:-1])

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        """Return the reversed shape of the concatenation."""
        return Joined(axis=-1).shape(shapes)[::-1]


@dataclass(frozen=True)
class Entry:
    """One of their tensors, or one for each layer.

    theirs:  name of their tensor.
    ours:    paths of our parameters ("encoder/layers/mlp/up/kernel").
    aliases: other names under which a checkpoint may have copies of the tensor. Copies must be equal.
    first:   number of the layer in their names that is index 0 of our parameters.
    step:    number of layers from one index to the next: the length of the pattern, see `t2t.export.patterns`.
    """

    theirs: str
    ours: tuple[str, ...]
    operation: Operation = Same()
    aliases: tuple[str, ...] = ()
    first: int = 0
    step: int = 1


def numbered(name: str, layer: int) -> str:
    """Return the name of a layer's tensor."""
    return name.replace(f"block_{LAYER}", f"block_{layer:03d}").replace(LAYER, str(layer))


def same(theirs: str, ours: str, *aliases: str) -> Entry:
    """Return an entry for a tensor that is the same in both."""
    return Entry(theirs, (ours,), Same(), aliases)


def linear(theirs: str, ours: str, *, bias: bool) -> list[Entry]:
    """Return the entries of a linear layer: the transposed weight, and the bias if it has one."""
    entries = [Entry(f"{theirs}.weight", (f"{ours}/kernel",), Transposed())]
    return [*entries, same(f"{theirs}.bias", f"{ours}/bias")] if bias else entries


def fused(theirs: str, ours: Sequence[str], *, bias: bool) -> list[Entry]:
    """Return the entries of a linear layer that computes several of ours at once."""
    entries = [Entry(f"{theirs}.weight", tuple(f"{path}/kernel" for path in ours), JoinedTransposed())]
    biases = Entry(f"{theirs}.bias", tuple(f"{path}/bias" for path in ours), Joined(axis=0))
    return [*entries, biases] if bias else entries


def normalised(theirs: str, ours: str, *, bias: bool) -> list[Entry]:
    """Return the entries of a normalisation layer."""
    entries = [same(f"{theirs}.weight", f"{ours}/scale")]
    return [*entries, same(f"{theirs}.bias", f"{ours}/bias")] if bias else entries


@dataclass(frozen=True)
class Tensor:
    """One of their tensors, and the parameters of ours that it holds.

    layer: index into the leading axes of our parameters: the layer, the expert, or both; None if they are not stacked.
    """

    name: str
    ours: tuple[str, ...]
    layer: Index | None
    operation: Operation
    aliases: tuple[str, ...]
    shape: Shape
    shapes: tuple[Shape, ...]


def tensors(entries: Iterable[Entry], specs: Mapping[str, Any]) -> list[Tensor]:
    """Return all tensors of a table, one for each layer, for a model with `specs`.

    Raises RuntimeError if the table does not contain each parameter of the model exactly once.
    """
    flat: dict[str, ParamSpec] = flatten(dict(specs))
    wanted = dict.fromkeys(flat, 0)
    found: list[Tensor] = []
    for entry in entries:
        for path in entry.ours:
            if path not in flat:
                raise RuntimeError(f"{entry.theirs}: the model has no parameter {path}.{nearest(path, flat)}")
            wanted[path] += 1
        entry_specs = [flat[path] for path in entry.ours]
        leading = tuple(axis for mark, axis in ((LAYER, "layers"), (EXPERT, "experts")) if mark in entry.theirs)
        assert all(spec.axes[: len(leading)] == leading for spec in entry_specs), entry
        shapes = tuple(spec.shape[len(leading) :] for spec in entry_specs)
        for place in np.ndindex(*entry_specs[0].shape[: len(leading)]):
            layer: Index | None = None if not place else place[0] if len(place) == 1 else place

            def named(name: str, entry: Entry = entry, place: tuple[int, ...] = place) -> str:
                name = name.replace(EXPERT, str(place[-1])) if EXPERT in name else name
                return numbered(name, entry.first + entry.step * place[0]) if LAYER in name else name

            aliases = tuple(map(named, entry.aliases))
            shape = entry.operation.shape(shapes)
            found.append(Tensor(named(entry.theirs), entry.ours, layer, entry.operation, aliases, shape, shapes))
    if wrong := [path for path, times in wanted.items() if times != 1]:
        raise RuntimeError(f"the table must contain each parameter exactly once: {', '.join(wrong)}")
    return found


def check_depth(entries: Iterable[Entry], specs: Mapping[str, Any], names: Collection[str], *, where: str) -> None:
    """Raise UserError if the model has more layers than there are tensors, before `tensors` makes a list of that size.

    names: names of the tensors in the checkpoint.
    where: the file that gives the number of layers, for error messages.
    """
    flat: dict[str, ParamSpec] = flatten(dict(specs))
    for entry in entries:
        layers = flat[entry.ours[0]].shape[0] * entry.step if LAYER in entry.theirs else 0
        if layers > len(names):
            raise UserError(
                f"{where}: the model has {layers} layers ({entry.theirs}), but the weights have only {len(names)} tensors"
            )


def check_shapes(
    wanted: Iterable[Tensor], names: Mapping[str, list[str]], shape: Callable[[str], Shape], *, where: object
) -> None:
    """Raise UserError if the shape of a tensor does not match the configuration, before anything is read.

    names: from `resolve`. shape: name -> shape.
    """
    for tensor in wanted:
        found = tuple(shape(names[tensor.name][0]))
        if found != tensor.shape:
            raise UserError(
                f"{where}: tensor {tensor.name} has shape {_shape(found)}; the configuration expects {_shape(tensor.shape)} ({', '.join(tensor.ours)})"
            )


def resolve(
    wanted: Sequence[Tensor],
    names: Collection[str],
    *,
    where: object,
    left_out: Iterable[str] = (),
    prefix: str = "",
    of: str = "",
) -> tuple[dict[str, list[str]], list[str]]:
    """Find the tensors in a checkpoint. Return tensor -> its names in the checkpoint, and the names that are intentionally not read.

    names:    names of the tensors in the checkpoint.
    prefix:   prefix that the names in a checkpoint of the base model do not have.
    left_out: patterns of tensors that are not read.
    of:       class of the saved model, for error messages.

    Raises UserError, naming the tensors, if some are missing or unknown.
    """
    have = set(names)
    real: dict[str, list[str]] = {}
    missing = []
    for tensor in wanted:
        found = [name for known in (tensor.name, *tensor.aliases) if (name := actual(known, have, prefix)) is not None]
        real[tensor.name] = found
        if not found:
            missing.append(tensor.name)
    read = {name for found in real.values() for name in found}
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise UserError(
            f"{where}: {some(missing)} {verb} missing from the weights, but required by the configuration."
            f"{nearest(missing[0], have - read)}"
        )
    rest = sorted(have - read)
    known = [name for name in rest if any(re.fullmatch(pattern, name) for pattern in left_out)]
    if unknown := [name for name in rest if name not in known]:
        owner = f" (of {of})" if of else ""
        raise UserError(f"{where}: the model has no parameter for {some(unknown)}{owner}")
    return real, known


def actual(name: str, names: Collection[str], prefix: str) -> str | None:
    """Return the name of a tensor in a checkpoint, with `prefix`, or without it in a checkpoint of the base model; None if it is missing."""
    return next((known for known in (name, name.removeprefix(prefix)) if known in names), None)


def some(names: Sequence[str]) -> str:
    """Return names for a message: at most the first four, and the number of the others."""
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


def write_tensor(tensor: Tensor, flat: Mapping[str, Any]) -> np.ndarray:
    """Return one of their tensors, made from our parameters (path -> array). Copies only these parameters to the host."""
    ours = [np.asarray(flat[path] if tensor.layer is None else flat[path][tensor.layer]) for path in tensor.ours]
    return tensor.operation.to_theirs(ours)


def _shape(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "a scalar"
