"""Rows of texts that an encoder reads separately, for vectors of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from t2t.data.converters import Example, FeatureConverter
from t2t.data.filling import RowPositions
from t2t.data.kind_converters import EncoderConverter
from t2t.errors import UserError
from t2t.types import Batch, Tokens


@dataclass(frozen=True, kw_only=True)
class TextsConverter(EncoderConverter):
    """Rows of an encoder whose examples consist of several texts. Each text is a segment: its tokens do not see other texts.

    `targets` has the number of each token's text in its example, from 0.

    most: maximum number of texts of an example. None means no limit.
    """

    most: int | None = None

    def _batch(self, examples: Sequence[Example], counts: Sequence[int]) -> tuple[Batch, RowPositions, np.ndarray]:
        batch, positions, before = super()._batch(examples, counts)
        assert batch.encoder is not None
        numbers = np.asarray(batch.targets)
        found = 1 + int(numbers.max(initial=0))
        if self.most is not None and found > self.most:
            raise UserError(
                f"an example has {found - 2} hard negatives, but the objective compares {self.most - 2} (--objective.negatives)."
                f" Nearest: {found - 2}."
            )
        return replace(batch, encoder=separated(batch.encoder, numbers)), positions, before


def in_segments(converter: FeatureConverter) -> FeatureConverter:
    """Return the converter of a task whose examples consist of several texts (`tasks.add(converter=...)`). Raises UserError if the model is not an encoder."""
    if not isinstance(converter, EncoderConverter):
        raise UserError(f"a model of kind {converter.kind!r} has no vectors of texts, only an encoder has.")
    return TextsConverter(**{field.name: getattr(converter, field.name) for field in fields(converter)})


def separated(tokens: Tokens, numbers: np.ndarray) -> Tokens:
    """Return the tokens with a segment for each text, and positions from 0 in it.

    numbers: number of each token's text in its example, [B L].
    """
    segments = np.asarray(tokens.segments)
    real = segments > 0
    first = np.ones_like(real)
    first[:, 1:] = (segments[:, 1:] != segments[:, :-1]) | (numbers[:, 1:] != numbers[:, :-1])
    first &= real
    place = np.arange(segments.shape[1], dtype=np.int32)[None]
    start = np.maximum.accumulate(np.where(first, place, 0), axis=1)
    return replace(
        tokens,
        positions=np.where(real, place - start, 0).astype(np.int32),
        segments=np.where(real, np.cumsum(first, axis=1), 0).astype(np.int32),
    )
