"""Sizes of Gemma 2 and 3."""

from __future__ import annotations

from functools import partial
from typing import Any

from t2t.models.config import LayerOptions, StackConfig
from t2t.models.decoder import DecoderConfig
from t2t.models.preset import Preset, split_overrides
from t2t.nn.rotary import Rotary


def gemma(
    *,
    num_layers: int,
    d_model: int,
    num_heads: int,
    d_ff: int,
    num_kv_heads: int | None = None,
    head_dim: int = 256,
    vocab_size: int = 256_000,
    **overrides: Any,
) -> DecoderConfig:
    """Return the configuration of what Gemma 2 and 3 have in common: sandwich norms, and no windows, bounds or norms of queries and keys.

    overrides: any other field of DecoderConfig or of StackConfig. The scale of the embeddings is sqrt(d_model) if it is not among them.
    """
    top, stacks = split_overrides(DecoderConfig, overrides)
    sizes: dict[str, Any] = {
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "head_dim": head_dim,
        "d_ff": d_ff,
    }
    stack = StackConfig(**sizes, **{**layers(), **stacks})
    return DecoderConfig(**{"vocab_size": vocab_size, "decoder": stack, "embedding_scale": d_model**0.5, **top})


def layers() -> dict[str, Any]:
    """Return the fields of a stack that all Gemma layers share."""
    return {
        "max_length": 8192,
        "activation": "gelu_tanh",
        "gated": True,
        "norm": "rms_plus_one",
        "norm_epsilon": 1e-6,
        "norm_place": "sandwich",
        "positions": "rotary",
        "init": "normal",
        "init_std": 0.02,
    }


def alternating(window: int) -> tuple[LayerOptions, ...]:
    """Return Gemma 2's pattern: a layer with a window, then a layer without one."""
    return (LayerOptions(window=window), LayerOptions())


def gemma2(*, window: int = 4096, **options: Any) -> DecoderConfig:
    """Return the configuration of a Gemma 2 of any size.

    window:  window of every second layer, starting with the first.
    options: arguments of `gemma`.
    """
    bounds = {"attention_softcap": 50.0, "final_softcap": 30.0}
    return gemma(**{"pattern": alternating(window), **bounds, **options})


def gemma3(
    *,
    window: int = 1024,
    base: float = 1_000_000.0,
    local_base: float = 10_000.0,
    factor: float = 1.0,
    **options: Any,
) -> DecoderConfig:
    """Return the configuration of the text model of a Gemma 3 of any size.

    window:     window of five of six layers; the sixth has none.
    base:       base of the rotary positions in the layers without a window.
    local_base: base of the rotary positions in the layers with a window.
    factor:     factor by which positions are divided in the layers without a window ("linear" scaling).
    options:    arguments of `gemma`.
    """
    everywhere = Rotary(base=base) if factor == 1.0 else Rotary(base=base, scaling="linear", factor=factor)
    local = LayerOptions(window=window, rotary=Rotary(base=local_base))
    own = {"rotary": everywhere, "pattern": (*[local] * 5, LayerOptions()), "qk_norm": True}
    return gemma(**{"vocab_size": 262_144, **own, **options})


_Sizes = tuple[int, int, int, int, int, int, int | None]
#              num_layers d_model num_heads num_kv_heads d_ff head_dim queries' width, if it is not head_dim
_GEMMA2: dict[str, _Sizes] = {
    "2-2b": (26, 2304, 8, 4, 9216, 256, None),
    "2-9b": (42, 3584, 16, 8, 14_336, 256, None),
    "2-27b": (46, 4608, 32, 16, 36_864, 128, 144),
}
_GEMMA3: dict[str, _Sizes] = {
    "3-270m": (18, 640, 4, 1, 2048, 256, None),
    "3-1b": (26, 1152, 4, 1, 6912, 256, None),
    "3-4b": (34, 2560, 8, 4, 10_240, 256, None),
    "3-12b": (48, 3840, 16, 8, 15_360, 256, None),
    "3-27b": (62, 5376, 32, 16, 21_504, 128, 168),
}


def sized(size: str, **overrides: Any) -> DecoderConfig:
    """Return "2-2b", "2-9b", "2-27b", or the text model of "3-270m", "3-1b", "3-4b", "3-12b" or "3-27b"."""
    first = size in _GEMMA2
    num_layers, d_model, num_heads, num_kv_heads, d_ff, head_dim, query_width = {**_GEMMA2, **_GEMMA3}[size]
    options: dict[str, Any] = {
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "d_ff": d_ff,
        "head_dim": head_dim,
        "attention_scale": None if query_width is None else query_width**-0.5,
    }
    if size in ("3-270m", "3-1b"):
        options |= {"window": 512, "max_length": 32_768}
    elif not first:
        # The vocabulary has 64 more rows, for images.
        options |= {"factor": 8.0, "max_length": 131_072, "vocab_size": 262_208}
    return (gemma2 if first else gemma3)(**{**options, **overrides})


_PUBLISHED = {
    "2-2b": 2_614_341_888,
    "2-9b": 9_241_705_984,
    "2-27b": 27_227_128_320,
    "3-270m": 268_098_176,
    "3-1b": 999_885_952,
    "3-4b": 4_300_079_472,
    "3-12b": 12_187_325_040,
    "3-27b": 27_432_406_640,
}


def _images(width: int) -> int:
    """Return the number of parameters of Gemma 3's SigLIP encoder (27 layers of 1152, 4,096 patches of 14 x 14) and of its projection to `width`."""
    own, inner = 1152, 4304
    norm = 2 * own
    layer = 4 * (own + 1) * own + (own + 1) * inner + (inner + 1) * own + 2 * norm
    patches = (3 * 14 * 14 + 1) * own + 4096 * own
    return patches + 27 * layer + norm + own * width + own


PRESETS: dict[str, Preset] = {
    f"gemma:{size}": Preset(
        config=partial(sized, size),
        published=count,
        source="released checkpoints",
        besides={"the encoder of images": -_images(_GEMMA3[size][1])} if size in ("3-4b", "3-12b", "3-27b") else {},
    )
    for size, count in _PUBLISHED.items()
}
