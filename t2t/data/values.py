"""Rows of an encoder whose examples have several numbers as targets: 0 or 1 for each label, or numbers to predict."""

from __future__ import annotations

import functools
from dataclasses import replace

from t2t.data.converters import Convert, FeatureConverter
from t2t.data.kind_converters import EncoderConverter
from t2t.errors import UserError
from t2t.types import Extra

VALUES_FEATURE = "values"
"""The feature of a task, and the entry of `Batch.extra`, with the targets of an example: float32 [K]."""
_SHORT = 4
"""A packed row has room for the values of one example for each this many tokens. More examples than that go to the next row."""


@functools.cache
def with_values(count: int) -> Convert:
    """Return the function that adds `count` values of each example to its rows (`tasks.add(converter=...)`). It is the same function for equal counts.

    The function raises UserError if the model is not an encoder.
    """

    def convert(converter: FeatureConverter) -> FeatureConverter:
        if not isinstance(converter, EncoderConverter):
            raise UserError(
                f"a model of kind {converter.kind!r} has no head for labels or numbers of a text, only an encoder has."
            )
        slots = max(1, converter.inputs_length // _SHORT)
        extra = Extra(name=VALUES_FEATURE, shape=(count,), slots=slots)
        return replace(converter, extras=(*converter.extras, extra))

    return convert
