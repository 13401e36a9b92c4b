"""Sizes of DeepSeek-V3."""

from __future__ import annotations

from typing import Any

from t2t.models.config import LayerOptions
from t2t.models.decoder import DecoderConfig
from t2t.models.llama.presets import llama
from t2t.models.preset import Preset
from t2t.nn.attention.latent import Latent
from t2t.nn.moe.router import Router
from t2t.nn.rotary import Rotary

DENSE = LayerOptions(num_experts=0)
"""Options of the layers without experts."""
ROUTER = Router(scores="sigmoid", scale=2.5, groups=8, groups_per_token=4, bias_rate=0.001, balance_loss=0.0)
"""The router of DeepSeek-V3. Its small loss for each sequence is left out."""


def deepseek(
    *,
    num_layers: int,
    d_model: int,
    num_heads: int,
    d_ff: int,
    head_dim: int = 128,
    dense_layers: int = 3,
    **overrides: Any,
) -> DecoderConfig:
    """Return the configuration of a DeepSeek-V3 of any size.

    d_ff:         inner width of the layers without experts.
    head_dim:     width of a head without its rotary part.
    dense_layers: number of first layers without experts.
    overrides:    any other argument of `llama`.
    """
    own: dict[str, Any] = {
        "head_dim": head_dim,
        "norm_epsilon": 1e-6,
        "latent": Latent(rank=512, query_rank=1536, rotary_dim=64, value_dim=128),
        "num_experts": 256,
        "experts_per_token": 8,
        "expert_d_ff": 2048,
        "shared_expert_d_ff": 2048,
        "router": ROUTER,
        "first": (DENSE,) * dense_layers,
    }
    sizes = {"num_layers": num_layers, "d_model": d_model, "num_heads": num_heads, "d_ff": d_ff}
    return llama(**sizes, **{**own, **overrides})


def v3(**overrides: Any) -> DecoderConfig:
    """Return DeepSeek-V3 with 671 billion parameters, without its module that predicts a second token."""
    sizes: dict[str, Any] = {
        "num_layers": 61,
        "d_model": 7168,
        "num_heads": 128,
        "d_ff": 18_432,
        "vocab_size": 129_280,
        "max_length": 163_840,
        "rotary": Rotary(scaling="yarn", factor=40.0, original_length=4096, mscale=1.0, mscale_all_dim=1.0),
    }
    return deepseek(**{**sizes, **overrides})


PRESETS: dict[str, Preset] = {
    "deepseek:v3": Preset(
        config=v3,
        published=671_000_000_000,
        source="DeepSeek-AI 2024",
        rounding=1_000_000_000,
        active=37_000_000_000,
    ),
}
