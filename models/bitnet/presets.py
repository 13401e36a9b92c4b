"""The size of BitNet b1.58 that is published."""

from __future__ import annotations

from functools import partial
from typing import Any

from t2t.models.decoder import DecoderConfig
from t2t.models.llama.presets import llama
from t2t.models.preset import Preset


def bitnet(*, num_layers: int, d_model: int, num_heads: int, d_ff: int, **overrides: Any) -> DecoderConfig:
    """Return the configuration of a BitNet of any size: LLaMA with ternary weights, norms before the last products, and squared ReLU.

    overrides: any other argument of `llama`.
    """
    own: dict[str, Any] = {"base": 500_000.0, "activation": "relu2", "sub_norms": True, "quantization": "ternary"}
    sizes = {"num_layers": num_layers, "d_model": d_model, "num_heads": num_heads, "d_ff": d_ff}
    return llama(**sizes, **{**own, **overrides})


def b1_58_2b_4t(**overrides: Any) -> DecoderConfig:
    """Return "b1.58-2b-4t"."""
    sizes: dict[str, Any] = {"num_layers": 30, "d_model": 2560, "num_heads": 20, "num_kv_heads": 5, "d_ff": 6912}
    other = {"vocab_size": 128_256, "max_length": 4096, "tied": True}
    return bitnet(**{**sizes, **other, **overrides})


PRESETS: dict[str, Preset] = {
    "bitnet:b1.58-2b-4t": Preset(
        config=partial(b1_58_2b_4t),
        published=2_412_820_480,
        source="released checkpoint, bitnet-b1.58-2B-4T-bf16",
    )
}
