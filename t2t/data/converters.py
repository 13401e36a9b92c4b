"""Examples of token ids -> rows -> `Batch`, in NumPy alone: the interface, and how each kind of model fills its rows.

SeqIO's own converters are not used: their packing takes a 0 inside a feature (a loss weight, say) for padding, numbers the segments of
`inputs` and `targets` apart where one of them is empty, and spends a `tf.while_loop` on it.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

import numpy as np

from t2t.data.filling import Places, cut, shifted, sizes_of
from t2t.errors import UserError
from t2t.nn.model import Kind
from t2t.types import Batch, Extra

Example = Mapping[str, np.ndarray]
"""One example: a one-dimensional array for each feature of the converter."""
Row = Sequence[Example]
"""The examples of one row, in order."""


@dataclass(frozen=True, kw_only=True)
class FeatureConverter(abc.ABC):
    """How examples fill rows. A subclass for each kind of model; an objective may give another, see `t2t.objectives.Objective.converter`.

    inputs_length:  tokens of `inputs` an example may have.
    targets_length: tokens of `targets` an example may have; not used by encoders.
    has_inputs:     False for a decoder's task that offers `targets` alone, which then have the whole row to themselves.
    has_types:      encoders: whether the task offers `types`, the token types of its inputs.
    loss_on_inputs: decoders: weight of inputs, that of targets being 1. `Tokens.prefix` is None where it is above 0: what sees itself cannot be predicted.
    bos_id:         what a decoder starts from.
    zero_pads:      whether a 0 at the end of an example is padding; False where id 0 is a word like any other.
    extras:         further features, which become `Batch.extra`.
    """

    kind: ClassVar[Kind]
    variants: ClassVar[tuple[str, ...]] = ()
    """Endings of the names of tasks that are the same for this kind of model."""
    varies: ClassVar[bool] = True
    """Whether the shapes of a batch depend on which features the task has."""
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
        """Names of the features of tokens that an example must have."""

    @property
    @abc.abstractmethod
    def lengths(self) -> dict[str, int]:
        """Tokens each of `own_features` may have; what preprocessors get as `sequence_length`."""

    @property
    @abc.abstractmethod
    def rows(self) -> dict[str, int]:
        """Tokens of a row, by the options that say how many: of the encoder and of the decoder, or of the one stack there is."""

    @classmethod
    @abc.abstractmethod
    def refused(cls, offered: Collection[str]) -> str | None:
        """Return why a task that offers these features is not for this kind of model, or None."""

    @abc.abstractmethod
    def _tokens(self, example: Example) -> tuple[int, ...]:
        """Return the tokens an example takes of each of `rows`."""

    @abc.abstractmethod
    def _batch(self, examples: Sequence[Example], counts: Sequence[int]) -> tuple[Batch, Places, np.ndarray]:
        """Return the batch of tokens, the places that targets are predicted at, and how many of an example's places come before its first target, [N]."""

    @abc.abstractmethod
    def prompts(self, examples: Sequence[Example]) -> Batch:
        """Return what `Model.start` takes to generate targets: one unpacked row an example, no target in it.

        A decoder's prompt is the start id and the inputs, the decoder part of an encoder-decoder's the start id alone;
        an encoder's is its row. `targets` and `weights` are 0.
        """

    @property
    def leader(self) -> str:
        """The feature that features of one value a target are as long as."""
        return "targets"

    @property
    def followers(self) -> tuple[str, ...]:
        """Features that have as many values as `leader`."""
        return tuple(extra.name for extra in self.extras if extra.per == "target")

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features an example must have."""
        return (*self.own_features, *(extra.name for extra in self.extras))

    @property
    def limits(self) -> dict[str, int]:
        """Values each of `features` may have; an extra array of an example has exactly so many."""
        own = self.lengths
        return own | {x.name: own[self.leader] if x.per == "target" else x.size for x in self.extras}

    @property
    def capacity(self) -> tuple[int, ...]:
        """What a row has room for: tokens, see `rows`, and examples, where their number is limited."""
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
        """Return the type of a feature's values."""
        return {"weights": "float32", **{extra.name: extra.dtype for extra in self.extras}}.get(feature, "int32")

    def sizes(self, example: Example) -> tuple[int, ...]:
        """Return what an example takes of each of `capacity`."""
        return (*self._tokens(example), *(1 for _ in self._examples))

    def predicts(self, example: Example) -> bool:
        """Whether there is anything in the example to learn from: one without a target fills no row."""
        return len(example["targets"]) > 0

    def fit(self, example: Example) -> tuple[Example, bool]:
        """Return the converter's features without padding at their end, cut to `limits`, and whether anything was cut.

        Raises:
          UserError: features that must be of equal length are not, or an extra array of an example has another number of values.
        """
        stacked = {name: np.asarray(example[name]).reshape(1, -1) for name in self.features}
        return self.fit_all(stacked, {name: np.array([array.shape[1]]) for name, array in stacked.items()})[0]

    def fit_all(self, stacked: Mapping[str, np.ndarray], sizes: Mapping[str, np.ndarray]) -> list[tuple[Example, bool]]:
        """Return what `fit` does of each of N examples.

        stacked: features, [N, L], L being as long as the longest.
        sizes:   how many of the L are the example's, [N].
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
        """Return a batch of [len(rows), capacity] arrays; a row of no examples is padding with weight 0.

        The examples of a row are segments 1, 2, ...; the shift to the right happens inside each of them, from `bos_id`.
        """
        examples = [example for row in rows for example in row]
        counts = [len(row) for row in rows]
        batch, places, before = self._batch(examples, counts)
        if not self.extras:
            return batch
        made = {}
        for extra in self.extras:
            values = [example[extra.name] for example in examples]
            if extra.per == "target":
                pieces = [x for n, piece in zip(before, values, strict=True) for x in (np.zeros(n, extra.dtype), piece)]
                made[extra.name] = places.put(pieces, extra.dtype)
            else:
                made[extra.name] = _in_slots(extra, values, counts)
        return replace(batch, extra=made)

    def _check_sizes(self, sizes: Mapping[str, np.ndarray]) -> None:
        for name in self.followers:
            odd = sizes[name] != sizes[self.leader]
            if odd.any():
                at = odd.argmax()
                raise UserError(
                    f"feature {name!r} must have one value for each of the {self.leader}; an example has {sizes[name][at]} {name}"
                    f" and {sizes[self.leader][at]} {self.leader}."
                )
        for extra in self.extras:
            if extra.per == "example" and (odd := sizes[extra.name] != extra.size).any():
                raise UserError(
                    f"feature {extra.name!r} must have {extra.size} finite values in each example (shape {extra.shape});"
                    f" one has {sizes[extra.name][odd.argmax()]}."
                )

    def _used(self, ids: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Lengths without the padding at the end; a 0 before another id is a token."""
        if not self.zero_pads:
            return sizes
        places = np.arange(1, ids.shape[1] + 1)
        return np.max(places * ((ids != 0) & (places <= sizes[:, None])), axis=1, initial=0)


Convert: TypeAlias = Callable[[FeatureConverter], FeatureConverter]
"""Makes of a kind's converter the one that is used."""


def unchanged(converter: FeatureConverter) -> FeatureConverter:
    """Return the converter as it is."""
    return converter


@dataclass(frozen=True, kw_only=True)
class EncoderConverter(FeatureConverter):
    """Rows of `inputs`, with a target and its weight at each place."""

    kind: ClassVar[Kind] = "encoder"
    variants: ClassVar[tuple[str, ...]] = ("_fill_mask", "_masked_lm")

    @property
    def own_features(self) -> tuple[str, ...]:
        """Inputs, targets, weights and, where there are any, types: all of equal length."""
        return ("inputs", "targets", "weights", *(("types",) if self.has_types else ()))

    @property
    def lengths(self) -> dict[str, int]:
        """The inputs' length for all."""
        return dict.fromkeys(self.own_features, self.inputs_length)

    @property
    def rows(self) -> dict[str, int]:
        """The encoder's."""
        return {"inputs_length": self.inputs_length}

    @property
    def leader(self) -> str:
        """A target stands at each place of the inputs."""
        return "inputs"

    @property
    def followers(self) -> tuple[str, ...]:
        """All other features of tokens."""
        return (*self.own_features[1:], *super().followers)

    @classmethod
    def refused(cls, offered: Collection[str]) -> str | None:
        """Return why a task without weights is not for an encoder."""
        if {"inputs", "weights"} <= set(offered):
            return None
        return f"is not for an encoder, which needs features inputs, targets and weights; it has {', '.join(sorted(offered))}."

    def prompts(self, examples: Sequence[Example]) -> Batch:
        """Return the rows."""
        batch, *_ = self._batch(examples, [1] * len(examples))
        zeros = np.zeros_like(batch.targets)
        return replace(batch, targets=zeros, weights=zeros.astype(np.float32))

    def _tokens(self, example: Example) -> tuple[int, ...]:
        return (len(example["inputs"]),)

    def _batch(self, examples: Sequence[Example], counts: Sequence[int]) -> tuple[Batch, Places, np.ndarray]:
        inputs = [example["inputs"] for example in examples]
        places = Places(counts, sizes_of(inputs), self.inputs_length)
        encoder = places.tokens(inputs)
        if self.has_types:
            encoder = replace(encoder, types=places.put([example["types"] for example in examples], np.int32))
        batch = Batch(
            encoder=encoder,
            decoder=None,
            targets=places.put([example["targets"] for example in examples], np.int32),
            weights=places.put([example["weights"] for example in examples], np.float32),
        )
        return batch, places, np.zeros(len(examples), np.int64)

    def _check_sizes(self, sizes: Mapping[str, np.ndarray]) -> None:
        odd = np.any([sizes[name] != sizes["inputs"] for name in self.own_features], axis=0)
        if odd.any():
            *names, last = self.own_features
            raise UserError(
                f"an encoder's {', '.join(names)} and {last} must be of equal length; an example has "
                + ", ".join(f"{sizes[name][odd.argmax()]} {name}" for name in self.own_features)
                + "."
            )
        super()._check_sizes(sizes)


class _OfTargets(FeatureConverter):
    """Targets that are generated one after the other."""

    @property
    def own_features(self) -> tuple[str, ...]:
        """Inputs, where the task has any, and targets."""
        return ("inputs", "targets") if self.has_inputs else ("targets",)

    @property
    def lengths(self) -> dict[str, int]:
        """Each feature's own; targets alone have the whole row."""
        if not self.has_inputs:
            return {"targets": self.inputs_length + self.targets_length}
        return {"inputs": self.inputs_length, "targets": self.targets_length}

    @classmethod
    def refused(cls, offered: Collection[str]) -> str | None:
        """Return why an encoder's task is not for another model."""
        if "weights" in offered:
            return f"is for encoders (it has a feature 'weights'), the model is of kind {cls.kind!r}."
        return None


@dataclass(frozen=True, kw_only=True)
class DecoderConverter(_OfTargets):
    """Rows of inputs followed by targets."""

    kind: ClassVar[Kind] = "decoder"

    @property
    def rows(self) -> dict[str, int]:
        """The decoder's."""
        return {"inputs_length + targets_length": self.inputs_length + self.targets_length}

    def prompts(self, examples: Sequence[Example]) -> Batch:
        """Return the start id and the inputs."""
        start = np.array([self.bos_id], np.int32)
        inputs = [x["inputs"] if self.has_inputs else start[:0] for x in examples]
        width = 1 + (self.inputs_length if self.has_inputs else 0)
        decoder = Places([1] * len(inputs), 1 + sizes_of(inputs), width).tokens(
            [ids for given in inputs for ids in (start, given)]
        )
        if self.has_inputs and not self.loss_on_inputs:
            decoder = replace(decoder, prefix=(np.asarray(decoder.segments) > 0).astype(np.int32))
        zeros = np.zeros_like(decoder.ids)
        return Batch(encoder=None, decoder=decoder, targets=zeros, weights=zeros.astype(np.float32))

    def _tokens(self, example: Example) -> tuple[int, ...]:
        return (sum(len(example[name]) for name in self.own_features),)

    def _batch(self, examples: Sequence[Example], counts: Sequence[int]) -> tuple[Batch, Places, np.ndarray]:
        none = np.zeros(len(examples), np.int64)
        given = sizes_of([example["inputs"] for example in examples]) if self.has_inputs else none
        sizes = given + sizes_of([example["targets"] for example in examples])
        places = Places(counts, sizes, self.inputs_length + self.targets_length)
        wanted = places.tokens([example[name] for example in examples for name in self.own_features])
        decoder = shifted(wanted, self.bos_id)
        weights = (np.asarray(wanted.segments) > 0).astype(np.float32)
        if self.has_inputs:
            left = places.left(given)
            weights[places.put([left > 0], np.bool_)] = self.loss_on_inputs
            if not self.loss_on_inputs:
                # The start id and the inputs behind it: as many decoder positions as see no target.
                decoder = replace(decoder, prefix=places.put([left >= 0], np.int32))
        return Batch(encoder=None, decoder=decoder, targets=wanted.ids, weights=weights), places, given


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderConverter(_OfTargets):
    """Rows of inputs for the encoder, rows of targets for the decoder."""

    kind: ClassVar[Kind] = "encoder_decoder"
    varies: ClassVar[bool] = False

    @property
    def rows(self) -> dict[str, int]:
        """The encoder's and the decoder's."""
        return {"inputs_length": self.inputs_length, "targets_length": self.targets_length}

    @classmethod
    def refused(cls, offered: Collection[str]) -> str | None:
        """Return why a task without inputs, or an encoder's, is not for an encoder-decoder."""
        if "inputs" not in offered and "weights" not in offered:
            return "has no feature 'inputs', which an encoder-decoder needs; a decoder trains on targets alone."
        return super().refused(offered)

    def prompts(self, examples: Sequence[Example]) -> Batch:
        """Return the inputs for the encoder, the start id for the decoder."""
        batch, *_ = self._batch([{**x, "targets": x["targets"][:0]} for x in examples], [1] * len(examples))
        start = np.array([self.bos_id], np.int32)
        decoder = Places([1] * len(examples), np.ones(len(examples), np.int64), 1).tokens([start] * len(examples))
        zeros = np.zeros_like(decoder.ids)
        return replace(batch, decoder=decoder, targets=zeros, weights=zeros.astype(np.float32))

    def _tokens(self, example: Example) -> tuple[int, ...]:
        return (len(example["inputs"]), len(example["targets"]))

    def _batch(self, examples: Sequence[Example], counts: Sequence[int]) -> tuple[Batch, Places, np.ndarray]:
        inputs, targets = ([example[name] for example in examples] for name in ("inputs", "targets"))
        encoder = Places(counts, sizes_of(inputs), self.inputs_length).tokens(inputs)
        places = Places(counts, sizes_of(targets), self.targets_length)
        wanted = places.tokens(targets)
        batch = Batch(
            encoder=encoder,
            decoder=shifted(wanted, self.bos_id),
            targets=wanted.ids,
            weights=(np.asarray(wanted.segments) > 0).astype(np.float32),
        )
        return batch, places, np.zeros(len(examples), np.int64)


CONVERTERS: dict[Kind, type[FeatureConverter]] = {
    cls.kind: cls for cls in (EncoderConverter, DecoderConverter, EncoderDecoderConverter)
}


def converter(kind: Kind, **fields: Any) -> FeatureConverter:
    """Return how examples fill the rows of a kind of model. fields: see `FeatureConverter`."""
    return CONVERTERS[kind](**fields)


def _in_slots(extra: Extra, values: Sequence[np.ndarray], counts: Sequence[int]) -> np.ndarray:
    """Return examples' values, [rows, slots, *shape]: segment s of a row has slot s - 1; slots without an example are 0."""
    filled: np.ndarray = np.zeros((len(counts), extra.slots, extra.size), extra.dtype)
    rest = iter(values)
    for row, count in enumerate(counts):
        for slot in range(count):
            filled[row, slot] = next(rest)
    return filled.reshape(len(counts), extra.slots, *extra.shape)
