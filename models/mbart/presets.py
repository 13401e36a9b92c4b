"""Sizes of mBART."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from t2t.models.bart.presets import bart
from t2t.models.encoder_decoder import EncoderDecoderConfig
from t2t.models.preset import Preset


def mbart(*, d_model: int, vocab_size: int, **overrides: Any) -> EncoderDecoderConfig:
    """Return the configuration of an mBART of any size. The arguments are those of `t2t.models.bart.bart`.

    Raises:
        UserError: a field is unknown, or values contradict each other.
    """
    fields = {"norm_place": "pre", "final_norm": True, "embedding_scale": math.sqrt(d_model), **overrides}
    return bart(d_model=d_model, vocab_size=vocab_size, **fields)


_VOCABULARIES = {"large-cc25": 250_027, "large-50": 250_054}
"""Size -> 250,000 SentencePiece pieces, special tokens, and 25 or 52 languages."""


def sized(size: str, **overrides: Any) -> EncoderDecoderConfig:
    """Return mBART "large-cc25" or "large-50"."""
    sizes: dict[str, Any] = {"num_layers": 12, "d_model": 1024, "num_heads": 16, "vocab_size": _VOCABULARIES[size]}
    return mbart(**{**sizes, **overrides})


PRESETS: dict[str, Preset] = {
    f"mbart:{size}": Preset(
        config=partial(sized, size), published=count, source=f"computed from the sizes of facebook/mbart-{size}"
    )
    for size, count in {"large-cc25": 610_851_840, "large-50": 610_879_488}.items()
}
