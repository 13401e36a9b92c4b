"""Sizes of Switch Transformers."""

from __future__ import annotations

from functools import partial
from typing import Any

from t2t.models.encoder_decoder import EncoderDecoderConfig
from t2t.models.preset import Preset
from t2t.models.t5.presets import t5
from t2t.nn.moe.router import Router

ROUTER = Router(normalized=False, balance_loss=0.001, balance_over="row", z_loss=0.001, jitter=0.01)
"""The router of the published models."""
ROOM = 64
"""Number of tokens of a row that an expert of the published models has room for."""


def switch(
    *, num_layers: int, d_model: int, num_heads: int, d_ff: int, num_experts: int, **overrides: Any
) -> EncoderDecoderConfig:
    """Return the configuration of a Switch Transformer of any size: a T5 1.0 with experts in every second layer.

    num_layers: depth of the encoder and of the decoder.
    d_ff:       inner width of each expert, and of the layers without experts.
    overrides:  any other argument of `t5`.
    """
    own: dict[str, Any] = {
        "version": "1.0",
        "num_experts": num_experts,
        "experts_per_token": 1,
        "moe_every": 2,
        "expert_tokens": ROOM,
        "router": ROUTER,
    }
    sizes: dict[str, Any] = {"num_layers": num_layers, "d_model": d_model, "num_heads": num_heads, "d_ff": d_ff}
    return t5(**sizes, **{**own, **overrides})


#         num_layers d_model num_heads d_ff moe_every
_SIZES = {
    "base": (12, 768, 12, 3072, 2),
    "large": (24, 1024, 16, 4096, 2),
    "c": (15, 2080, 32, 6144, 1),
}


def sized(size: str, num_experts: int, **overrides: Any) -> EncoderDecoderConfig:
    """Return "base", "large" or "c" with a number of experts."""
    num_layers, d_model, num_heads, d_ff, moe_every = _SIZES[size]
    sizes: dict[str, Any] = {
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": num_heads,
        "head_dim": 64,
        "d_ff": d_ff,
        "moe_every": moe_every,
        "num_experts": num_experts,
    }
    return switch(**{**sizes, **overrides})


def _preset(size: str, num_experts: int, published: int, rounding: int) -> Preset:
    config = partial(sized, size, num_experts)
    return Preset(config=config, published=published, source="Fedus et al. 2022", rounding=rounding)


PRESETS: dict[str, Preset] = {
    "switch:base-8": Preset(
        config=partial(sized, "base", 8), published=619_339_008, source="config.json of the released checkpoint"
    ),
    "switch:base-16": _preset("base", 16, 1_100_000_000, 100_000_000),
    "switch:base-32": _preset("base", 32, 2_000_000_000, 100_000_000),
    "switch:base-64": _preset("base", 64, 3_800_000_000, 100_000_000),
    "switch:base-128": _preset("base", 128, 7_400_000_000, 100_000_000),
    "switch:base-256": _preset("base", 256, 14_700_000_000, 100_000_000),
    "switch:large-128": _preset("large", 128, 26_300_000_000, 100_000_000),
    "switch:c-2048": _preset("c", 2048, 1_571_000_000_000, 1_000_000_000),
}
