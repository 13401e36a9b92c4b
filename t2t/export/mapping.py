"""Tables between our parameters and the tensors of another library's checkpoint: one a family, read in both directions.

A table is a list of entries. Each says which tensor of theirs holds which of our parameters, and by which invertible operation; "{layer}" in a name stands for the
index into our parameters' leading axis "layers" ("block_{layer}" for one of three digits, as T5's first checkpoints have it). Tensors pass one at a time.
"""

from __future__ import annotations

import abc
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from t2t.errors import UserError, nearest
from t2t.export.directory import flatten, unflatten
from t2t.nn.model import ParamSpec
from t2t.types import Params

Shape = tuple[int, ...]
LAYER = "{layer}"
LARGE = 2**28
"""Bytes from which a stacked parameter is filled a layer at a time."""


class Operation(abc.ABC):
    """How one tensor of theirs is made of some of our arrays, and they of it. Both ways keep every bit."""

    @abc.abstractmethod
    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Return our arrays, of `shapes`."""

    @abc.abstractmethod
    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Return their tensor."""

    @abc.abstractmethod
    def shape(self, shapes: Sequence[Shape]) -> Shape:
        """Return the shape of their tensor."""


@dataclass(frozen=True)
class Same(Operation):
    """The array as it is."""

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Return it."""
        return [theirs]

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Return it."""
        return ours[0]

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        """Return the same shape."""
        return shapes[0]


@dataclass(frozen=True)
class Transposed(Operation):
    """A matrix with outputs first, as PyTorch's linear layers have it."""

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Return the transpose."""
        return [theirs.T]

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Return the transpose."""
        return ours[0].T

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        """Return the shape the other way round."""
        return shapes[0][::-1]


@dataclass(frozen=True)
class Joined(Operation):
    """Our arrays behind one another along `axis`."""

    axis: int

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Cut it."""
        return np.split(theirs, np.cumsum([shape[self.axis] for shape in shapes])[:-1], self.axis)

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Join them."""
        return np.concatenate(ours, self.axis)

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        """Return the shape of the whole."""
        axis = self.axis % len(shapes[0])
        whole = sum(shape[axis] for shape in shapes)
        return (*shapes[0][:axis], whole, *shapes[0][axis + 1 :])


@dataclass(frozen=True)
class Entry:
    """One tensor of theirs, or one for each layer.

    ours:    paths of our parameters ("encoder/layers/mlp/up/kernel").
    aliases: other names under which the same tensor may be there again; where it is, it must be equal.
    """

    theirs: str
    ours: tuple[str, ...]
    operation: Operation = Same()
    aliases: tuple[str, ...] = ()


def same(theirs: str, ours: str, *aliases: str) -> Entry:
    """Return the entry of a tensor that is the same in both."""
    return Entry(theirs, (ours,), Same(), aliases)


def linear(theirs: str, ours: str, *, bias: bool) -> list[Entry]:
    """Return the entries of a linear layer: its weight transposed, and its bias where it has one."""
    entries = [Entry(f"{theirs}.weight", (f"{ours}/kernel",), Transposed())]
    return [*entries, same(f"{theirs}.bias", f"{ours}/bias")] if bias else entries


def normalised(theirs: str, ours: str, *, bias: bool) -> list[Entry]:
    """Return the entries of a norm."""
    entries = [same(f"{theirs}.weight", f"{ours}/scale")]
    return [*entries, same(f"{theirs}.bias", f"{ours}/bias")] if bias else entries


@dataclass(frozen=True)
class Tensor:
    """One tensor of theirs: which of our parameters it holds, of which layer, None where they are not stacked."""

    name: str
    ours: tuple[str, ...]
    layer: int | None
    operation: Operation
    aliases: tuple[str, ...]
    shape: Shape
    shapes: tuple[Shape, ...]


def tensors(entries: Iterable[Entry], specs: Mapping[str, Any]) -> list[Tensor]:
    """Return all tensors of a table for a model of `specs`, layers written out.

    Raises RuntimeError where the table is not one of this model: a parameter it lacks, has twice or has too many.
    """
    flat: dict[str, ParamSpec] = flatten(dict(specs))
    wanted = dict.fromkeys(flat, 0)
    found: list[Tensor] = []
    for entry in entries:
        for path in entry.ours:
            if path not in flat:
                raise RuntimeError(f"{entry.theirs}: the model has no parameter {path}.{nearest(path, flat)}")
            wanted[path] += 1
        own = [flat[path] for path in entry.ours]
        if LAYER in entry.theirs:
            assert all(spec.axes[0] == "layers" for spec in own), entry
            layers: list[int | None] = list(range(own[0].shape[0]))
        else:
            layers = [None]
        shapes = tuple(spec.shape[LAYER in entry.theirs :] for spec in own)
        for layer in layers:

            def named(name: str, layer: int | None = layer) -> str:
                if layer is None:
                    return name
                return name.replace(f"block_{LAYER}", f"block_{layer:03d}").replace(LAYER, str(layer))

            aliases = tuple(map(named, entry.aliases))
            shape = entry.operation.shape(shapes)
            found.append(Tensor(named(entry.theirs), entry.ours, layer, entry.operation, aliases, shape, shapes))
    if wrong := [path for path, times in wanted.items() if times != 1]:
        raise RuntimeError(f"parameters that the table has not exactly once: {', '.join(wrong)}")
    return found


def check_depth(entries: Iterable[Entry], specs: Mapping[str, Any], names: Collection[str], *, where: str) -> None:
    """Refuse a model of more layers than there are tensors, before a line is written out for each. Raises UserError.

    where: the file that says how many layers there are.
    """
    flat: dict[str, ParamSpec] = flatten(dict(specs))
    for entry in entries:
        if LAYER in entry.theirs and flat[entry.ours[0]].shape[0] > len(names):
            layers = flat[entry.ours[0]].shape[0]
            raise UserError(
                f"{where}: a model of {layers} layers ({entry.theirs}) is asked for, and the weights are {len(names)} tensors in all"
            )


def check_shapes(
    wanted: Iterable[Tensor], names: Mapping[str, list[str]], shape: Callable[[str], Shape], *, where: object
) -> None:
    """Refuse a tensor of another shape than the configuration says, before anything is read or made. Raises UserError.

    names: from `resolve`. shape: name -> shape.
    """
    for tensor in wanted:
        found = tuple(shape(names[tensor.name][0]))
        if found != tensor.shape:
            raise UserError(
                f"{where}: tensor {tensor.name} is {_shape(found)}, and {_shape(tensor.shape)} by the configuration ({', '.join(tensor.ours)})"
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
    """Return under which names each tensor is there, several where it is there more than once, and the names that are by intent not read.

    prefix:   what the names of a base model lack before them.
    left_out: patterns of what is not read.
    of:       the class of the model that was saved, for errors.
    Raises UserError, naming them, for tensors that are missing and for tensors there is no place for.
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
        raise UserError(
            f"{where}: {some(missing)} {'is' if len(missing) == 1 else 'are'} missing from the weights, which the configuration asks for.{nearest(missing[0], have - read)}"
        )
    rest = sorted(have - read)
    known = [name for name in rest if any(re.fullmatch(pattern, name) for pattern in left_out)]
    if unknown := [name for name in rest if name not in known]:
        own = f" (of {of})" if of else ""
        raise UserError(f"{where}: no place in the model for {some(unknown)}{own}")
    return real, known


def actual(name: str, names: Collection[str], prefix: str) -> str | None:
    """Return how a tensor is called in a checkpoint, with `prefix` or, in one of the base model alone, without it."""
    return next((known for known in (name, name.removeprefix(prefix)) if known in names), None)


def some(names: Sequence[str]) -> str:
    """Return names for a message: of many the first four, and how many more."""
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


def read_params(
    wanted: Sequence[Tensor],
    specs: Mapping[str, Any],
    shardings: Mapping[str, Any],
    read: Callable[[str], np.ndarray],
    *,
    where: object,
) -> Params:
    """Return the parameters in float32, each straight to its sharding: no more than one of ours, of a large one a layer, is on the host at a time.

    read: name -> tensor of the shape that `check_shapes` has seen, of any floating type. where: the directory, for errors.
    Raises UserError, naming it, for a tensor that is not finite.
    """
    places: dict[str, dict[int | None, tuple[Tensor, int]]] = {}
    for tensor in wanted:
        for part, path in enumerate(tensor.ours):
            places.setdefault(path, {})[tensor.layer] = (tensor, part)

    def piece(path: str, layer: int | None) -> np.ndarray:
        tensor, part = places[path][layer]
        with np.errstate(over="ignore"):  # told below
            value = np.asarray(read(tensor.name), np.float32)
        if not np.isfinite(value).all():
            bad = "NaN" if np.isnan(value).any() else "infinite"
            raise UserError(f"{where}: tensor {tensor.name} has values that are {bad} in float32")
        return tensor.operation.to_ours(value, tensor.shapes)[part]

    def make(path: str, spec: ParamSpec) -> jax.Array:
        if None in places[path]:
            return _placed(spec.shape, sharding[path], lambda: piece(path, None))
        if 4 * math.prod(spec.shape) >= LARGE:
            return _by_layer(spec.shape, sharding[path], lambda layer: piece(path, layer))

        def whole() -> np.ndarray:
            out = np.empty(spec.shape, np.float32)
            for layer in range(spec.shape[0]):
                out[layer] = piece(path, layer)
            return out

        return _placed(spec.shape, sharding[path], whole)

    sharding = flatten(dict(shardings))
    return unflatten({path: make(path, spec) for path, spec in flatten(dict(specs)).items()})


def _placed(shape: Shape, sharding: Any, make: Callable[[], np.ndarray]) -> jax.Array:
    value = np.array(make(), np.float32, order="C")
    return jax.make_array_from_callback(shape, sharding, lambda index: value[index]).block_until_ready()


def _by_layer(shape: Shape, sharding: NamedSharding, make: Callable[[int], np.ndarray]) -> jax.Array:
    """Fill a stacked array on its devices a layer at a time, so that never the whole is on the host besides."""
    spec = (*sharding.spec, *(None,) * (len(shape) - len(sharding.spec)))
    of_layer = NamedSharding(sharding.mesh, PartitionSpec(*spec[1:]))

    def put(whole: jax.Array, part: jax.Array, layer: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_index_in_dim(whole, part, layer, 0)

    put = jax.jit(put, donate_argnums=0, out_shardings=sharding)
    whole = jax.jit(lambda: jnp.zeros(shape, jnp.float32), out_shardings=sharding)()
    for layer in range(shape[0]):
        part = _placed(shape[1:], of_layer, lambda layer=layer: make(layer))  # type: ignore[misc]
        whole = put(whole, part, jnp.int32(layer)).block_until_ready()
    return whole


def write_tensor(tensor: Tensor, flat: Mapping[str, Any]) -> np.ndarray:
    """Return one tensor of theirs from our parameters by path; nothing else is brought to the host."""
    ours = [np.asarray(flat[path] if tensor.layer is None else flat[path][tensor.layer]) for path in tensor.ours]
    return tensor.operation.to_theirs(ours)


def _shape(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "a scalar"
