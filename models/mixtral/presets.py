"""Sizes of Mixtral."""

from __future__ import annotations

from functools import partial
from typing import Any

from t2t.models.decoder import DecoderConfig
from t2t.models.llama.presets import llama
from t2t.models.preset import Preset
from t2t.nn.moe.router import Router


def mixtral(*, num_layers: int, d_model: int, num_heads: int, d_ff: int, **overrides: Any) -> DecoderConfig:
    """Return the configuration of a Mixtral of any size.

    d_ff:      inner width of each expert.
    overrides: any other argument of `llama`.
    """
    own: dict[str, Any] = {
        "base": 1_000_000.0,
        "num_experts": 8,
        "experts_per_token": 2,
        "router": Router(balance_loss=0.02),
    }
    sizes = {"num_layers": num_layers, "d_model": d_model, "num_heads": num_heads, "d_ff": d_ff}
    return llama(**sizes, **{**own, **overrides})


#           num_layers d_model num_heads num_kv_heads d_ff max_length balance_loss
_SIZES = {
    "8x7b": (32, 4096, 32, 8, 14_336, 32_768, 0.02),
    "8x22b": (56, 6144, 48, 8, 16_384, 65_536, 0.001),
}


def sized(size: str, **overrides: Any) -> DecoderConfig:
    """Return "8x7b" or "8x22b"."""
    names = ("num_layers", "d_model", "num_heads", "num_kv_heads", "d_ff", "max_length")
    *numbers, balance_loss = _SIZES[size]
    sizes: dict[str, Any] = dict(zip(names, numbers, strict=True))
    return mixtral(**{**sizes, "router": Router(balance_loss=balance_loss), **overrides})


PRESETS: dict[str, Preset] = {
    "mixtral:8x7b": Preset(
        config=partial(sized, "8x7b"), published=46_702_792_704, source="released checkpoints", active=12_900_000_000
    ),
    "mixtral:8x22b": Preset(
        config=partial(sized, "8x22b"),
        published=141_000_000_000,
        source="Mistral AI 2024",
        rounding=1_000_000_000,
        active=39_000_000_000,
    ),
}
