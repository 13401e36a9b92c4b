"""Sizes of LLaMA 2 to 3.3, SmolLM2 and Mistral."""

from __future__ import annotations

from functools import partial
from typing import Any

from t2t import former_names
from t2t.models.config import StackConfig
from t2t.models.decoder import DecoderConfig
from t2t.models.preset import Preset, split_overrides
from t2t.nn.rotary import Rotary


@former_names.sizes
def llama(
    *,
    num_layers: int,
    d_model: int,
    num_heads: int,
    d_ff: int,
    num_kv_heads: int | None = None,
    max_length: int = 2048,
    vocab_size: int = 32_000,
    base: float = 10_000.0,
    **overrides: Any,
) -> DecoderConfig:
    """Return the configuration of a LLaMA of any size.

    base:       base of the rotary positions; alternatively set `rotary`.
    max_length: training length; limits nothing.
    overrides:  any other field of DecoderConfig or of StackConfig.
    """
    top, stacks = split_overrides(DecoderConfig, overrides)
    stack: dict[str, Any] = {
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "d_ff": d_ff,
        "max_length": max_length,
        "activation": "silu",
        "gated": True,
        "norm": "rms",
        "norm_epsilon": 1e-5,
        "positions": "rotary",
        "rotary": Rotary(base=base),
        "init": "normal",
        "init_std": 0.02,
        **stacks,
    }
    return DecoderConfig(
        **{"vocab_size": vocab_size, "decoder": StackConfig(**stack), "tied": False, "embedding_std": 0.02, **top}
    )


#                   num_layers d_model num_heads num_kv_heads d_ff    vocabulary length  base     tied
_SIZES: dict[str, tuple[int, int, int, int, int, int, int, float, bool]] = {
    "2-7b": (32, 4096, 32, 32, 11008, 32_000, 4096, 10_000.0, False),
    "3-8b": (32, 4096, 32, 8, 14336, 128_256, 8192, 500_000.0, False),
    "3-70b": (80, 8192, 64, 8, 28672, 128_256, 8192, 500_000.0, False),
    "3.1-8b": (32, 4096, 32, 8, 14336, 128_256, 131_072, 500_000.0, False),
    "3.1-70b": (80, 8192, 64, 8, 28672, 128_256, 131_072, 500_000.0, False),
    "3.2-1b": (16, 2048, 32, 8, 8192, 128_256, 131_072, 500_000.0, True),
    "3.2-3b": (28, 3072, 24, 8, 8192, 128_256, 131_072, 500_000.0, True),
    "3.3-70b": (80, 8192, 64, 8, 28672, 128_256, 131_072, 500_000.0, False),
    "smollm2-135m": (30, 576, 9, 3, 1536, 49_152, 8192, 100_000.0, True),
    "smollm2-360m": (32, 960, 15, 5, 2560, 49_152, 8192, 100_000.0, True),
    "smollm2-1.7b": (24, 2048, 32, 32, 8192, 49_152, 8192, 130_000.0, True),
    "mistral-7b": (32, 4096, 32, 8, 14336, 32_000, 32_768, 10_000.0, False),
}


@former_names.sizes
def sized(size: str, **overrides: Any) -> DecoderConfig:
    """Return a published size: "2-7b", "3-8b" to "3.3-70b", "smollm2-135m" to "smollm2-1.7b" or "mistral-7b"."""
    num_layers, d_model, num_heads, num_kv_heads, d_ff, vocab_size, max_length, base, tied = _SIZES[size]
    sizes: dict[str, Any] = {
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "d_ff": d_ff,
        "vocab_size": vocab_size,
        "max_length": max_length,
        "base": base,
        "tied": tied,
    }
    if size == "mistral-7b":
        sizes["window"] = 4096
    if size.startswith(("3.1-", "3.2-", "3.3-")):
        factor = 32.0 if size.startswith("3.2-") else 8.0
        sizes["rotary"] = Rotary(base=base, scaling="llama3", factor=factor, low=1.0, high=4.0, original_length=8192)
    return llama(**{**sizes, **overrides})


_PUBLISHED = {
    "2-7b": 6_738_415_616,
    "3-8b": 8_030_261_248,
    "3-70b": 70_553_706_496,
    "3.1-8b": 8_030_261_248,
    "3.1-70b": 70_553_706_496,
    "3.2-1b": 1_235_814_400,
    "3.2-3b": 3_212_749_824,
    "3.3-70b": 70_553_706_496,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "mistral-7b": 7_241_732_096,
}

PRESETS: dict[str, Preset] = {
    f"llama:{size}": Preset(config=partial(sized, size), published=count, source="released checkpoints")
    for size, count in _PUBLISHED.items()
}
