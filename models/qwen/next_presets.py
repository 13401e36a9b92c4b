"""Sizes of Qwen3-Next: three layers with the gated delta rule for each layer with gated attention, and experts in all of them."""

from __future__ import annotations

from functools import partial
from typing import Any

from t2t.models.config import LayerOptions
from t2t.models.decoder import DecoderConfig
from t2t.models.llama.presets import llama
from t2t.models.preset import Preset
from t2t.nn.moe.router import Router
from t2t.nn.recurrent.gated_delta_net import GatedDeltaNetConfig
from t2t.nn.rotary import Rotary

DELTA = GatedDeltaNetConfig(num_heads=32, num_key_heads=16)
"""Gated DeltaNet of the published model."""


def hybrid(delta: GatedDeltaNetConfig, every: int) -> tuple[LayerOptions, ...]:
    """Return the pattern in which every n-th layer has attention, and the others have Gated DeltaNet."""
    return (*[LayerOptions(mixer=delta)] * (every - 1), LayerOptions())


def qwen3_next(*, num_layers: int, d_model: int, num_heads: int, d_ff: int, **overrides: Any) -> DecoderConfig:
    """Return the configuration of a Qwen3-Next of any size.

    d_ff:      inner width of layers without experts; that of an expert is `expert_d_ff`.
    overrides: any other argument of `llama`. `pattern` has the mixers; by default it is that of the published model.
    """
    own: dict[str, Any] = {
        "vocab_size": 151_936,
        "max_length": 262_144,
        "norm": "rms_plus_one",
        "norm_epsilon": 1e-6,
        "rotary": Rotary(base=10_000_000.0, share=0.25),
        "head_dim": 256,
        "qk_norm": True,
        "attention_gate": True,
        "num_experts": 512,
        "experts_per_token": 10,
        "expert_d_ff": 512,
        "shared_expert_d_ff": 512,
        "shared_expert_gate": True,
        "router": Router(balance_loss=0.001),
        "pattern": hybrid(DELTA, every=4),
    }
    sizes = {"num_layers": num_layers, "d_model": d_model, "num_heads": num_heads, "d_ff": d_ff}
    return llama(**sizes, **{**own, **overrides})


def sized_next(**overrides: Any) -> DecoderConfig:
    """Return Qwen3-Next-80B-A3B, the only published size."""
    sizes = {"num_layers": 48, "d_model": 2048, "num_heads": 16, "num_kv_heads": 2, "d_ff": 5120}
    return qwen3_next(**{**sizes, **overrides})


PRESETS: dict[str, Preset] = {
    "qwen:next-80b-a3b": Preset(
        config=partial(sized_next),
        published=80_000_000_000,
        rounding=1_000_000_000,
        source="model card of Qwen3-Next-80B-A3B",
        active=3_000_000_000,
    )
}
