"""Sizes of Marian."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from t2t.models.bart.presets import SINUSOIDAL, bart
from t2t.models.encoder_decoder import EncoderDecoderConfig
from t2t.models.preset import Preset


def marian(*, d_model: int, vocab_size: int, max_length: int = 512, **overrides: Any) -> EncoderDecoderConfig:
    """Return the configuration of a Marian model of any size. The arguments are those of `t2t.models.bart.bart`.

    Raises:
        UserError: a field is unknown, or values contradict each other.
    """
    fields = {"activation": "silu", "embedding_scale": math.sqrt(d_model), "head_bias": True}
    made = {**SINUSOIDAL, **fields, **overrides}
    return bart(d_model=d_model, vocab_size=vocab_size, max_length=max_length, **made)


def sized(size: str, **overrides: Any) -> EncoderDecoderConfig:
    """Return "opus-mt-en-de". The other pairs of languages of OPUS-MT have the same sizes and their own vocabularies."""
    assert size == "opus-mt-en-de", size
    return marian(**{"num_layers": 6, "d_model": 512, "num_heads": 8, "vocab_size": 58_101, **overrides})


PRESETS: dict[str, Preset] = {
    "marian:opus-mt-en-de": Preset(
        config=partial(sized, "opus-mt-en-de"),
        published=73_944_309,
        source="computed from the sizes of Helsinki-NLP/opus-mt-en-de, without its tables of sines and cosines",
    )
}
