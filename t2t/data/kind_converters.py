"""The feature converters of encoders, decoders and encoder-decoders."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from t2t.data.converters import Example, FeatureConverter
from t2t.data.filling import RowPositions, shifted, sizes_of
from t2t.errors import UserError
from t2t.nn.model import Kind
from t2t.types import Batch


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
