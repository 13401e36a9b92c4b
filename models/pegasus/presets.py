"""Sizes of PEGASUS."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from t2t.models.bart.presets import SINUSOIDAL, bart
from t2t.models.encoder_decoder import EncoderDecoderConfig
from t2t.models.preset import Preset

VOCAB_SIZE = 96_103
"""Vocabulary size: 96,000 SentencePiece pieces and 103 special tokens."""


def pegasus(*, d_model: int, vocab_size: int = VOCAB_SIZE, **overrides: Any) -> EncoderDecoderConfig:
    """Return the configuration of a PEGASUS of any size. The arguments are those of `t2t.models.bart.bart`.

    Raises:
        UserError: a field is unknown, or values contradict each other.
    """
    fields = {"norm_place": "pre", "final_norm": True, "activation": "relu", "embedding_scale": math.sqrt(d_model)}
    return bart(d_model=d_model, vocab_size=vocab_size, **{**SINUSOIDAL, **fields, **overrides})


def sized(size: str, **overrides: Any) -> EncoderDecoderConfig:
    """Return PEGASUS "large"."""
    assert size == "large", size
    return pegasus(**{"num_layers": 16, "d_model": 1024, "num_heads": 16, **overrides})


PRESETS: dict[str, Preset] = {
    "pegasus:large": Preset(
        config=partial(sized, "large"),
        published=568_699_904,
        source="computed from the sizes of google/pegasus-large, without its tables of sines and cosines",
    )
}
