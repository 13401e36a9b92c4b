"""Sizes of LongT5."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from t2t.models.encoder_decoder import EncoderDecoderConfig
from t2t.models.preset import Preset
from t2t.models.t5.presets import SIZES_1_1, t5

WINDOW = 254
"""Window of the encoder: a token sees 127 tokens on either side (Guo et al. 2022, section 4.1)."""
GLOBAL_BLOCK = 16
"""Tokens in a block whose sum every token of the encoder sees (the same section)."""


def longt5(*, window: int = WINDOW, global_block: int | None = GLOBAL_BLOCK, **overrides: Any) -> EncoderDecoderConfig:
    """Return the configuration of a LongT5 of any size.

    window:       window of the encoder in tokens: a token sees window // 2 tokens on either side.
    global_block: number of tokens in a block of transient-global attention; None for local attention.
    overrides:    the arguments of `t2t.models.t5.t5`.

    Raises:
        UserError: a field is unknown, or values contradict each other.
    """
    made = t5(**overrides)
    return replace(made, encoder=replace(made.encoder, window=window, global_block=global_block))


def sized(attention: str, size: str, **overrides: Any) -> EncoderDecoderConfig:
    """Return LongT5 "base", "large" or "xl" with "local" or "tglobal" attention. The sizes are those of T5 1.1."""
    num_layers, d_model, d_ff, num_heads, head_dim = SIZES_1_1[size]
    sizes = {"num_layers": num_layers, "d_model": d_model, "d_ff": d_ff, "num_heads": num_heads, "head_dim": head_dim}
    return longt5(**{**sizes, "global_block": GLOBAL_BLOCK if attention == "tglobal" else None, **overrides})


_COUNTS = {
    "local-base": 247_577_856,
    "local-large": 783_150_080,
    "tglobal-base": 247_587_456,
    "tglobal-large": 783_175_168,
    "tglobal-xl": 2_849_807_360,
}

PRESETS: dict[str, Preset] = {
    f"longt5:{name}": Preset(
        config=partial(sized, *name.split("-")),
        published=count,
        source=f"computed from the sizes of google/long-t5-{name}",
    )
    for name, count in _COUNTS.items()
}
