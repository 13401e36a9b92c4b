"""Feature converters: arrange examples of token ids in rows and make a `Batch`, in NumPy. `t2t.data.kind_converters` has one for each kind of model.

SeqIO's own converters are not used. Their packing treats a 0 inside a feature (for example a loss weight) as padding, gives `inputs` and
`targets` different segment numbers if one of them is empty, and needs a `tf.while_loop`.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeAlias

import numpy as np

from t2t.data.filling import RowPositions, cut
from t2t.errors import UserError
from t2t.nn.model import Kind
from t2t.types import Batch, Extra

Example = Mapping[str, np.ndarray]
"""One example: a one-dimensional array for each feature of the converter."""
Row = Sequence[Example]
"""The examples of one row, in order."""


@dataclass(frozen=True, kw_only=True)
class FeatureConverter(abc.ABC):
    """Arrange examples in rows. Each kind of model has a subclass. An objective may use another, see `t2t.objectives.Objective.converter`.

    inputs_length:  maximum number of `inputs` tokens in an example.
    targets_length: maximum number of `targets` tokens in an example. Encoders ignore it.
    has_inputs:     False for a decoder's task that has only `targets`. They may then use the whole row.
    has_types:      for encoders: whether the task has `types`, the token types of its inputs.
    loss_on_inputs: for decoders: loss weight of the inputs. Targets have weight 1. If it is above 0, `Tokens.prefix` is None: inputs that attend to
                    themselves cannot be predicted.
    bos_id:         start token of a decoder.
    zero_pads:      whether a 0 at the end of an example is padding. False if id 0 is an ordinary token.
    extras:         additional features, which become `Batch.extra`.
    """

    kind: ClassVar[Kind]
    variants: ClassVar[tuple[str, ...]] = ()
    """Name endings of task variants for this kind of model."""
    varies: ClassVar[bool] = True
    """Whether the shapes of a batch depend on the features of the task."""
    inputs_length: int
    targets_length: int
    has_inputs: bool = True
    has_types: bool = False
    loss_on_inputs: float = 0.0
    bos_id: int = 0
    zero_pads: bool = True
    extras: tuple[Extra, ...] = ()

    @property
    @abc.abstractmethod
    def own_features(self) -> tuple[str, ...]:
        """Names of the token features that an example must have."""

    @property
    @abc.abstractmethod
    def lengths(self) -> dict[str, int]:
        """Maximum number of tokens of each of `own_features`. Preprocessors get it as `sequence_length`."""

    @property
    @abc.abstractmethod
    def rows(self) -> dict[str, int]:
        """Tokens in a row of each stack (encoder, decoder), keyed by the options that set it."""

    @classmethod
    @abc.abstractmethod
    def refused(cls, offered: Collection[str]) -> str | None:
        """Return why a task with these features does not fit this kind of model, or None if it does."""

    @abc.abstractmethod
    def _tokens(self, example: Example) -> tuple[int, ...]:
        """Return how many tokens of each of `rows` an example takes."""

    @abc.abstractmethod
    def _batch(self, examples: Sequence[Example], counts: Sequence[int]) -> tuple[Batch, RowPositions, np.ndarray]:
        """Return the batch, the positions where targets are predicted, and how many of each example's positions come before its first target, [N]."""

    @abc.abstractmethod
    def prompts(self, examples: Sequence[Example]) -> Batch:
        """Return the batch that `Model.start` takes to generate targets: one unpacked row per example, without its target.

        The prompt of a decoder is the start token and the inputs. In an encoder-decoder, the decoder's prompt is only the start token.
        The prompt of an encoder is its row. `targets` and `weights` are 0.
        """

    @property
    def start_id(self) -> int | None:
        """The start token of a decoder before the inputs. None if the inputs begin with one."""
        return self.bos_id

    @property
    def leader(self) -> str:
        """The feature that determines the length of the features in `followers`."""
        return "targets"

    @property
    def followers(self) -> tuple[str, ...]:
        """Features that have the same length as `leader`."""
        return tuple(extra.name for extra in self.extras if extra.per == "target")

    @property
    def features(self) -> tuple[str, ...]:
        """Names of all features that an example must have."""
        return (*self.own_features, *(extra.name for extra in self.extras))

    @property
    def limits(self) -> dict[str, int]:
        """Maximum number of values of each of `features`. An extra array of an example has exactly this many."""
        own = self.lengths
        return own | {x.name: own[self.leader] if x.per == "target" else x.size for x in self.extras}

    @property
    def capacity(self) -> tuple[int, ...]:
        """Capacity of a row: tokens of each of `rows`, then examples if their number is limited."""
        return (*self.rows.values(), *self._examples)

    @property
    def _examples(self) -> tuple[int, ...]:
        slots = [extra.slots for extra in self.extras if extra.per == "example"]
        return (min(slots),) if slots else ()

    @property
    def extra_axes(self) -> dict[str, tuple[str | None, ...]]:
        """The logical axes of each array of `Batch.extra`."""
        return {extra.name: extra.axes for extra in self.extras}

    def dtype(self, feature: str) -> str:
        """Return the dtype of a feature."""
        return {"weights": "float32", **{extra.name: extra.dtype for extra in self.extras}}.get(feature, "int32")

    def sizes(self, example: Example) -> tuple[int, ...]:
        """Return how much of each entry of `capacity` an example takes."""
        return (*self._tokens(example), *(1 for _ in self._examples))

    def predicts(self, example: Example) -> bool:
        """Return whether the example has a target. Examples without one are dropped."""
        return len(example["targets"]) > 0

    def fit(self, example: Example) -> tuple[Example, bool]:
        """Return the features without the padding at their end, truncated to `limits`, and whether anything was truncated.

        Raises:
          UserError: features that must have equal lengths do not, or an extra array has the wrong number of values.
        """
        stacked = {name: np.asarray(example[name]).reshape(1, -1) for name in self.features}
        return self.fit_all(stacked, {name: np.array([array.shape[1]]) for name, array in stacked.items()})[0]

    def fit_all(self, stacked: Mapping[str, np.ndarray], sizes: Mapping[str, np.ndarray]) -> list[tuple[Example, bool]]:
        """Return the results of `fit` for N examples.

        stacked: features, each [N, L] with the maximum length L.
        sizes:   length of each feature in each example, [N].
        """
        self._check_sizes(sizes)
        fixed = {extra.name for extra in self.extras if extra.per == "example"}
        used = {
            name: sizes[name] if name in fixed else self._used(stacked[name], sizes[name])
            for name in self.features
            if name not in self.followers
        }
        used |= dict.fromkeys(self.followers, used[self.leader])
        limits = self.limits
        any_cut = np.any([used[name] > limits[name] for name in self.features], axis=0)
        columns = [cut(stacked[name], np.minimum(used[name], limits[name])) for name in self.features]
        return [
            (dict(zip(self.features, kept, strict=True)), was_cut)
            for *kept, was_cut in zip(*columns, any_cut.tolist(), strict=True)
        ]

    def batch(self, rows: Sequence[Row]) -> Batch:
        """Return a batch of [len(rows), capacity] arrays. A row without examples is padding with weight 0.

        The examples of a row are segments 1, 2, ... Each segment is shifted right separately and starts with `bos_id`.
        """
        examples = [example for row in rows for example in row]
        counts = [len(row) for row in rows]
        batch, positions, before = self._batch(examples, counts)
        if not self.extras:
            return batch
        arrays = {}
        for extra in self.extras:
            values = [example[extra.name] for example in examples]
            if extra.per == "target":
                pieces = [x for n, piece in zip(before, values, strict=True) for x in (np.zeros(n, extra.dtype), piece)]
                arrays[extra.name] = positions.scatter(pieces, extra.dtype)
            else:
                arrays[extra.name] = _in_slots(extra, values, counts)
        return replace(batch, extra=arrays)

    def _check_sizes(self, sizes: Mapping[str, np.ndarray]) -> None:
        for name in self.followers:
            unequal = sizes[name] != sizes[self.leader]
            if unequal.any():
                at = unequal.argmax()
                raise UserError(
                    f"feature {name!r} must have one value for each of the {self.leader}; an example has {sizes[name][at]} {name}"
                    f" and {sizes[self.leader][at]} {self.leader}."
                )
        for extra in self.extras:
            if extra.per == "example" and (unequal := sizes[extra.name] != extra.size).any():
                raise UserError(
                    f"feature {extra.name!r} must have {extra.size} finite values in each example (shape {extra.shape});"
                    f" one has {sizes[extra.name][unequal.argmax()]}."
                )

    def _used(self, ids: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Return the lengths without the padding at the end. A 0 before another id is a token."""
        if not self.zero_pads:
            return sizes
        positions = np.arange(1, ids.shape[1] + 1)
        return np.max(positions * ((ids != 0) & (positions <= sizes[:, None])), axis=1, initial=0)


Convert: TypeAlias = Callable[[FeatureConverter], FeatureConverter]
"""A function that replaces the default converter of a kind of model."""


def unchanged(converter: FeatureConverter) -> FeatureConverter:
    """Return the converter as it is."""
    return converter


def _in_slots(extra: Extra, values: Sequence[np.ndarray], counts: Sequence[int]) -> np.ndarray:
    """Return the values of the examples, [rows, slots, *shape]. Segment s of a row has slot s - 1. Unused slots are 0."""
    filled: np.ndarray = np.zeros((len(counts), extra.slots, extra.size), extra.dtype)
    rest = iter(values)
    for row, count in enumerate(counts):
        for slot in range(count):
            filled[row, slot] = next(rest)
    return filled.reshape(len(counts), extra.slots, *extra.shape)
