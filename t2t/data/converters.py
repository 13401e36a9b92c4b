"""Feature converters: arrange examples of token ids in rows and make a `Batch`, in NumPy. One converter for each kind of model.

SeqIO's own converters are not used. Their packing treats a 0 inside a feature (for example a loss weight) as padding, gives `inputs` and
`targets` different segment numbers if one of them is empty, and needs a `tf.while_loop`.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

import numpy as np

from t2t.data.filling import RowPositions, cut, shifted, sizes_of
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


@dataclass(frozen=True, kw_only=True)
class EncoderConverter(FeatureConverter):
    """Rows of `inputs`, with a target and its weight at each position."""

    kind: ClassVar[Kind] = "encoder"
    variants: ClassVar[tuple[str, ...]] = ("_fill_mask", "_masked_lm")

    @property
    def own_features(self) -> tuple[str, ...]:
        """Inputs, targets, weights and, with `has_types`, types. All have equal lengths."""
        return ("inputs", "targets", "weights", *(("types",) if self.has_types else ()))

    @property
    def lengths(self) -> dict[str, int]:
        """`inputs_length` for each feature."""
        return dict.fromkeys(self.own_features, self.inputs_length)

    @property
    def rows(self) -> dict[str, int]:
        """Tokens in a row of the encoder."""
        return {"inputs_length": self.inputs_length}

    @property
    def leader(self) -> str:
        """`inputs`: each input token has a target."""
        return "inputs"

    @property
    def followers(self) -> tuple[str, ...]:
        """All other token features, and the extras with one value per target."""
        return (*self.own_features[1:], *super().followers)

    @classmethod
    def refused(cls, offered: Collection[str]) -> str | None:
        """Return why a task does not fit an encoder: it lacks inputs or weights."""
        if {"inputs", "weights"} <= set(offered):
            return None
        return f"is not for an encoder, which needs features inputs, targets and weights; it has {', '.join(sorted(offered))}."

    def prompts(self, examples: Sequence[Example]) -> Batch:
        """Return the rows, without targets."""
        batch, *_ = self._batch(examples, [1] * len(examples))
        zeros = np.zeros_like(batch.targets)
        return replace(batch, targets=zeros, weights=zeros.astype(np.float32))

    def _tokens(self, example: Example) -> tuple[int, ...]:
        return (len(example["inputs"]),)

    def _batch(self, examples: Sequence[Example], counts: Sequence[int]) -> tuple[Batch, RowPositions, np.ndarray]:
        inputs = [example["inputs"] for example in examples]
        positions = RowPositions(counts, sizes_of(inputs), self.inputs_length)
        encoder = positions.tokens(inputs)
        if self.has_types:
            encoder = replace(encoder, types=positions.scatter([example["types"] for example in examples], np.int32))
        batch = Batch(
            encoder=encoder,
            decoder=None,
            targets=positions.scatter([example["targets"] for example in examples], np.int32),
            weights=positions.scatter([example["weights"] for example in examples], np.float32),
        )
        return batch, positions, np.zeros(len(examples), np.int64)

    def _check_sizes(self, sizes: Mapping[str, np.ndarray]) -> None:
        unequal = np.any([sizes[name] != sizes["inputs"] for name in self.own_features], axis=0)
        if unequal.any():
            *names, last = self.own_features
            raise UserError(
                f"an encoder's {', '.join(names)} and {last} must have equal lengths; an example has "
                + ", ".join(f"{sizes[name][unequal.argmax()]} {name}" for name in self.own_features)
                + "."
            )
        super()._check_sizes(sizes)


class _TargetsConverter(FeatureConverter):
    """Converter of the kinds that generate targets token by token."""

    @property
    def own_features(self) -> tuple[str, ...]:
        """Inputs, if the task has them, and targets."""
        return ("inputs", "targets") if self.has_inputs else ("targets",)

    @property
    def lengths(self) -> dict[str, int]:
        """The length of each feature. Without inputs, targets may use the whole row."""
        if not self.has_inputs:
            return {"targets": self.inputs_length + self.targets_length}
        return {"inputs": self.inputs_length, "targets": self.targets_length}

    @classmethod
    def refused(cls, offered: Collection[str]) -> str | None:
        """Return why a task does not fit this kind of model: it is for encoders."""
        if "weights" in offered:
            return f"is for encoders (it has a feature 'weights'), but the model is of kind {cls.kind!r}."
        return None


@dataclass(frozen=True, kw_only=True)
class DecoderConverter(_TargetsConverter):
    """Rows of inputs followed by targets."""

    kind: ClassVar[Kind] = "decoder"

    @property
    def rows(self) -> dict[str, int]:
        """Tokens in a row of the decoder."""
        return {"inputs_length + targets_length": self.inputs_length + self.targets_length}

    def prompts(self, examples: Sequence[Example]) -> Batch:
        """Return the start token and the inputs."""
        start = np.array([self.bos_id], np.int32)
        inputs = [x["inputs"] if self.has_inputs else start[:0] for x in examples]
        width = 1 + (self.inputs_length if self.has_inputs else 0)
        decoder = RowPositions([1] * len(inputs), 1 + sizes_of(inputs), width).tokens(
            [ids for given in inputs for ids in (start, given)]
        )
        if self.has_inputs and not self.loss_on_inputs:
            decoder = replace(decoder, prefix=(np.asarray(decoder.segments) > 0).astype(np.int32))
        zeros = np.zeros_like(decoder.ids)
        return Batch(encoder=None, decoder=decoder, targets=zeros, weights=zeros.astype(np.float32))

    def _tokens(self, example: Example) -> tuple[int, ...]:
        return (sum(len(example[name]) for name in self.own_features),)

    def _batch(self, examples: Sequence[Example], counts: Sequence[int]) -> tuple[Batch, RowPositions, np.ndarray]:
        none = np.zeros(len(examples), np.int64)
        given = sizes_of([example["inputs"] for example in examples]) if self.has_inputs else none
        sizes = given + sizes_of([example["targets"] for example in examples])
        positions = RowPositions(counts, sizes, self.inputs_length + self.targets_length)
        wanted = positions.tokens([example[name] for example in examples for name in self.own_features])
        decoder = shifted(wanted, self.bos_id)
        weights = (np.asarray(wanted.segments) > 0).astype(np.float32)
        if self.has_inputs:
            left = positions.left(given)
            weights[positions.scatter([left > 0], np.bool_)] = self.loss_on_inputs
            if not self.loss_on_inputs:
                # The start token and the inputs after it: the decoder positions that see no target.
                decoder = replace(decoder, prefix=positions.scatter([left >= 0], np.int32))
        return Batch(encoder=None, decoder=decoder, targets=wanted.ids, weights=weights), positions, given


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderConverter(_TargetsConverter):
    """Rows of inputs for the encoder, rows of targets for the decoder."""

    kind: ClassVar[Kind] = "encoder_decoder"
    varies: ClassVar[bool] = False

    @property
    def rows(self) -> dict[str, int]:
        """Tokens in a row of the encoder and of the decoder."""
        return {"inputs_length": self.inputs_length, "targets_length": self.targets_length}

    @classmethod
    def refused(cls, offered: Collection[str]) -> str | None:
        """Return why a task does not fit an encoder-decoder: it has no inputs, or it is for encoders."""
        if "inputs" not in offered and "weights" not in offered:
            return "has no feature 'inputs', which an encoder-decoder needs; a decoder can train on targets alone."
        return super().refused(offered)

    def prompts(self, examples: Sequence[Example]) -> Batch:
        """Return the inputs for the encoder and the start token for the decoder."""
        batch, *_ = self._batch([{**x, "targets": x["targets"][:0]} for x in examples], [1] * len(examples))
        start = np.array([self.bos_id], np.int32)
        decoder = RowPositions([1] * len(examples), np.ones(len(examples), np.int64), 1).tokens([start] * len(examples))
        zeros = np.zeros_like(decoder.ids)
        return replace(batch, decoder=decoder, targets=zeros, weights=zeros.astype(np.float32))

    def _tokens(self, example: Example) -> tuple[int, ...]:
        return (len(example["inputs"]), len(example["targets"]))

    def _batch(self, examples: Sequence[Example], counts: Sequence[int]) -> tuple[Batch, RowPositions, np.ndarray]:
        inputs, targets = ([example[name] for example in examples] for name in ("inputs", "targets"))
        encoder = RowPositions(counts, sizes_of(inputs), self.inputs_length).tokens(inputs)
        positions = RowPositions(counts, sizes_of(targets), self.targets_length)
        wanted = positions.tokens(targets)
        batch = Batch(
            encoder=encoder,
            decoder=shifted(wanted, self.bos_id),
            targets=wanted.ids,
            weights=(np.asarray(wanted.segments) > 0).astype(np.float32),
        )
        return batch, positions, np.zeros(len(examples), np.int64)


CONVERTERS: dict[Kind, type[FeatureConverter]] = {
    cls.kind: cls for cls in (EncoderConverter, DecoderConverter, EncoderDecoderConverter)
}


def converter(kind: Kind, **fields: Any) -> FeatureConverter:
    """Return the converter for a kind of model. `fields` are those of `FeatureConverter`."""
    return CONVERTERS[kind](**fields)


def _in_slots(extra: Extra, values: Sequence[np.ndarray], counts: Sequence[int]) -> np.ndarray:
    """Return the values of the examples, [rows, slots, *shape]. Segment s of a row has slot s - 1. Unused slots are 0."""
    filled: np.ndarray = np.zeros((len(counts), extra.slots, extra.size), extra.dtype)
    rest = iter(values)
    for row, count in enumerate(counts):
        for slot in range(count):
            filled[row, slot] = next(rest)
    return filled.reshape(len(counts), extra.slots, *extra.shape)
