"""Rows of pairs: two answers to the same inputs, of which the first is preferred."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from t2t.data.converters import Example, FeatureConverter
from t2t.data.filling import RowPositions
from t2t.data.kind_converters import DecoderConverter, EncoderDecoderConverter
from t2t.errors import UserError
from t2t.types import Batch

REJECTED = "rejected"
"""The feature with the answer that is not preferred. `targets` is the preferred one."""


class _Pairs(FeatureConverter):
    """Converter whose rows hold each example twice: with its preferred answer, and with the other one.

    The two are segments 2k - 1 and 2k of a row, for its k-th example, and see each other as little as other segments do. A row has room for the longest pair, so it is
    twice as long as that of single answers. A pair is never divided.
    """

    @property
    def own_features(self) -> tuple[str, ...]:
        """Those of single answers, and the rejected answer."""
        return (*self.single().own_features, REJECTED)

    @property
    def lengths(self) -> dict[str, int]:
        """Those of single answers; both answers have the same limit."""
        single = self.single().lengths
        return {**single, REJECTED: single["targets"]}

    @property
    def rows(self) -> dict[str, int]:
        """Twice the tokens of rows of single answers."""
        return {name: 2 * size for name, size in self.single().rows.items()}

    def predicts(self, example: Example) -> bool:
        """Return whether both answers have tokens."""
        return super().predicts(example) and len(example[REJECTED]) > 0

    def prompts(self, examples: Sequence[Example]) -> Batch:
        """Return the prompts of single answers."""
        return self.single().prompts(examples)

    def single(self) -> FeatureConverter:
        """Return the converter of single answers."""
        plain = _PLAIN[type(self)]
        return plain(**{field.name: getattr(self, field.name) for field in fields(plain)})

    def _tokens(self, example: Example) -> tuple[int, ...]:
        single = self.single()
        return tuple(map(sum, zip(*(single._tokens(one) for one in _both(example)), strict=True)))

    def _batch(self, examples: Sequence[Example], counts: Sequence[int]) -> tuple[Batch, RowPositions, np.ndarray]:
        single = self.single()
        wide = replace(single, inputs_length=2 * self.inputs_length, targets_length=2 * self.targets_length)
        return wide._batch([one for example in examples for one in _both(example)], [2 * count for count in counts])


def _both(example: Example) -> tuple[Example, Example]:
    return example, {**example, "targets": example[REJECTED]}


@dataclass(frozen=True, kw_only=True)
class DecoderPairs(_Pairs, DecoderConverter):
    """Rows of a decoder."""


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderPairs(_Pairs, EncoderDecoderConverter):
    """Rows of an encoder-decoder. The encoder reads the inputs of each answer."""


_PAIRS: dict[type[FeatureConverter], type[_Pairs]] = {
    DecoderConverter: DecoderPairs,
    EncoderDecoderConverter: EncoderDecoderPairs,
}
_PLAIN: dict[type[FeatureConverter], type[FeatureConverter]] = {pairs: plain for plain, pairs in _PAIRS.items()}


def in_pairs(converter: FeatureConverter) -> FeatureConverter:
    """Return the converter of pairs for the converter of single answers. Raises UserError if it is that of an encoder, or a task's own."""
    made = _PAIRS.get(type(converter))
    if made is None:
        raise UserError(
            f"preferences need rows of inputs and answers, not those of {type(converter).__name__}. Nearest: a task of t2t.tasks.add_preferences, and a decoder or an"
            " encoder-decoder."
        )
    return made(**{field.name: getattr(converter, field.name) for field in fields(converter)})
