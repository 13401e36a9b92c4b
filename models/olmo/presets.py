"""Sizes of OLMo 2 and 3."""

from __future__ import annotations

from functools import partial
from typing import Any

from t2t.models.config import LayerOptions
from t2t.models.decoder import DecoderConfig
from t2t.models.llama.presets import llama
from t2t.models.preset import Preset
from t2t.nn.rotary import Rotary


def olmo2(*, num_layers: int, d_model: int, num_heads: int, d_ff: int, **overrides: Any) -> DecoderConfig:
    """Return the configuration of an OLMo 2 of any size. overrides: any other argument of `llama`."""
    own: dict[str, Any] = {
        "vocab_size": 100_352,
        "max_length": 4096,
        "base": 500_000.0,
        "norm_epsilon": 1e-6,
        "norm_place": "output",
        "qk_norm": True,
        "qk_norm_whole": True,
    }
    sizes = {"num_layers": num_layers, "d_model": d_model, "num_heads": num_heads, "d_ff": d_ff}
    return llama(**sizes, **{**own, **overrides})


def olmo3(*, window: int = 4096, base: float = 500_000.0, factor: float = 8.0, **options: Any) -> DecoderConfig:
    """Return the configuration of an OLMo 3 of any size.

    window:  window of three of four layers; the fourth has none.
    base:    base of the rotary positions.
    factor:  how much longer the context is than 8192 tokens; the layers without a window have "yarn" positions for it. 1.0 means plain positions.
    options: arguments of `olmo2`.
    """
    plain = Rotary(base=base)
    local = LayerOptions(window=window, rotary=plain)
    everywhere = plain if factor == 1.0 else Rotary(base=base, scaling="yarn", factor=factor, original_length=8192)
    own = {"vocab_size": 100_278, "max_length": 65_536}
    return olmo2(**{**own, "rotary": everywhere, "pattern": (*[local] * 3, LayerOptions()), **options})


#              num_layers d_model num_heads num_kv_heads d_ff
_SIZES = {
    "2-1b": (16, 2048, 16, 16, 8192),
    "2-7b": (32, 4096, 32, 32, 11_008),
    "2-13b": (40, 5120, 40, 40, 13_824),
    "2-32b": (64, 5120, 40, 8, 27_648),
    "3-7b": (32, 4096, 32, 32, 11_008),
    "3-32b": (64, 5120, 40, 8, 27_648),
}


def sized(size: str, **overrides: Any) -> DecoderConfig:
    """Return "2-1b", "2-7b", "2-13b", "2-32b", "3-7b" or "3-32b"."""
    names = ("num_layers", "d_model", "num_heads", "num_kv_heads", "d_ff")
    sizes: dict[str, Any] = dict(zip(names, _SIZES[size], strict=True))
    return (olmo3 if size.startswith("3-") else olmo2)(**{**sizes, **overrides})


_PUBLISHED = {
    "2-1b": 1_484_916_736,
    "2-7b": 7_298_617_344,
    "2-13b": 13_716_198_400,
    "2-32b": 32_234_279_936,
    "3-7b": 7_298_011_136,
    "3-32b": 32_233_522_176,
}

PRESETS: dict[str, Preset] = {
    f"olmo:{size}": Preset(config=partial(sized, size), published=count, source="released checkpoints")
    for size, count in _PUBLISHED.items()
}
