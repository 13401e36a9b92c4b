"""Sizes of T5Gemma 2."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

from t2t.models import gemma
from t2t.models.encoder_decoder import EncoderDecoderConfig
from t2t.models.preset import Preset, split_overrides
from t2t.models.t5gemma import encoder_decoder_of

_SIZES = {"270m-270m": "3-270m", "1b-1b": "3-1b", "4b-4b": "3-4b"}


def sized(size: str, **overrides: Any) -> EncoderDecoderConfig:
    """Return the text model of "270m-270m", "1b-1b" or "4b-4b": the sizes of the Gemma 3 of which it has two stacks."""
    top, stacks = split_overrides(EncoderDecoderConfig, overrides)
    dropout = {"mlp_dropout": True, "final_dropout": True}
    decoder = gemma.sized(_SIZES[size], **{"factor": 8.0, "vocab_size": 262_144, **dropout, **stacks})
    return dataclasses.replace(encoder_decoder_of(decoder), **top)


_COUNTS = {"270m-270m": 368_424_192, "1b-1b": 1_697_782_016, "4b-4b": 7_089_110_016}

PRESETS: dict[str, Preset] = {
    f"t5gemma2:{size}": Preset(
        config=partial(sized, size), published=count, source="computed from the sizes of Gemma 3, without images"
    )
    for size, count in _COUNTS.items()
}
