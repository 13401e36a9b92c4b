"""Sizes of gpt-oss."""

from __future__ import annotations

from functools import partial
from typing import Any

from t2t.models.config import LayerOptions
from t2t.models.decoder import DecoderConfig
from t2t.models.llama.presets import llama
from t2t.models.preset import Preset
from t2t.nn.moe.router import Router
from t2t.nn.rotary import Rotary

VOCAB_SIZE = 201_088
ROTARY = Rotary(base=150_000.0, scaling="yarn", factor=32.0, original_length=4096, truncate=False)
"""The published rotary positions: texts 32 times as long as the first 4,096 tokens of training."""


def gpt_oss(
    *, num_layers: int, d_model: int, num_heads: int, d_ff: int, window: int = 128, **overrides: Any
) -> DecoderConfig:
    """Return the configuration of a gpt-oss of any size.

    d_ff:      inner width of each expert.
    window:    window of every second layer, starting with the first.
    overrides: any other argument of `llama`.
    """
    own: dict[str, Any] = {
        "num_kv_heads": 8,
        "head_dim": 64,
        "vocab_size": VOCAB_SIZE,
        "max_length": 131_072,
        "rotary": ROTARY,
        "pattern": (LayerOptions(window=window), LayerOptions()),
        "attention_sinks": True,
        "biases": True,
        # x sigmoid(1.702 x), times the other branch plus 1, both bounded: this is what the paper calls a SwiGLU.
        "activation": "quick_gelu",
        "expert_limit": 7.0,
        "num_experts": 32,
        "experts_per_token": 4,
        # The softmax over the chosen experts alone is the softmax over all, divided by the sum over the chosen.
        "router": Router(normalized=True, balance_loss=0.9),
    }
    sizes = {"num_layers": num_layers, "d_model": d_model, "num_heads": num_heads, "d_ff": d_ff}
    return llama(**sizes, **{**own, **overrides})


_WIDTH = 2880
#        num_layers num_experts
_SIZES = {"20b": (24, 32), "120b": (36, 128)}


def sized(size: str, **overrides: Any) -> DecoderConfig:
    """Return "20b" or "120b"."""
    num_layers, num_experts = _SIZES[size]
    sizes = {"num_layers": num_layers, "num_experts": num_experts, "d_model": _WIDTH, "d_ff": _WIDTH, "num_heads": 64}
    return gpt_oss(**{**sizes, **overrides})


_TOKENS = VOCAB_SIZE * _WIDTH
"""Parameters of the token embeddings, which the published counts of active parameters leave out."""

PRESETS: dict[str, Preset] = {
    "gptoss:20b": Preset(
        config=partial(sized, "20b"),
        published=20_914_757_184,
        source="released checkpoints; active: OpenAI 2025, table 1, and the token embeddings",
        active=3_610_000_000 + _TOKENS,
    ),
    "gptoss:120b": Preset(
        config=partial(sized, "120b"),
        published=116_829_156_672,
        source="released checkpoints; active: OpenAI 2025, table 1, and the token embeddings",
        active=5_130_000_000 + _TOKENS,
    ),
}
