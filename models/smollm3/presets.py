"""Size of SmolLM3."""

from __future__ import annotations

from typing import Any

from t2t.models.config import LayerOptions
from t2t.models.decoder import DecoderConfig
from t2t.models.llama.presets import llama
from t2t.models.preset import Preset

POSITIONS, NO_POSITIONS = LayerOptions(), LayerOptions(positions="none")


def smollm3(**overrides: Any) -> DecoderConfig:
    """Return SmolLM3 3B. overrides: any field of DecoderConfig or of StackConfig."""
    sizes: dict[str, Any] = {
        "num_layers": 36,
        "d_model": 2048,
        "num_heads": 16,
        "num_kv_heads": 4,
        "d_ff": 11008,
        "vocab_size": 128_256,
        "max_length": 65_536,
        "base": 5_000_000.0,
        "norm_epsilon": 1e-6,
        "tied": True,
        "pattern": (POSITIONS, POSITIONS, POSITIONS, NO_POSITIONS),
    }
    return llama(**{**sizes, **overrides})


PRESETS = {"smollm3:3b": Preset(config=smollm3, published=3_075_098_624, source="released checkpoints")}
