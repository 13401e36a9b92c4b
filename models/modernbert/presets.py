"""Sizes of ModernBERT."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from t2t.export.patterns import shortest_pattern
from t2t.models.config import LayerOptions, StackConfig
from t2t.models.encoder import EncoderConfig
from t2t.models.preset import Preset, split_overrides
from t2t.nn.rotary import Rotary

VOCAB_SIZE = 50_368
"""Size of the vocabulary, padded to a multiple of 64."""
WINDOW = 128
"""Size of the attention window in tokens."""
GLOBAL, LOCAL = Rotary(base=160_000.0), Rotary(base=10_000.0)
"""Rotary positions of the layers without and with a window."""


def modernbert(
    *,
    num_layers: int,
    d_model: int,
    num_heads: int,
    d_ff: int,
    vocab_size: int = VOCAB_SIZE,
    local: Sequence[bool] | None = None,
    window: int = WINDOW,
    rotary: Rotary = GLOBAL,
    local_rotary: Rotary = LOCAL,
    **overrides: Any,
) -> EncoderConfig:
    """Return the configuration of a ModernBERT of any size, with the masked-LM head.

    local:        for each layer, whether it has a window; None means that every third layer, from the first one on, has none.
    window:       size of the window in tokens.
    rotary:       positions of the layers without a window.
    local_rotary: positions of the layers with a window.
    overrides:    any other field of EncoderConfig or of StackConfig.
    """
    top, stacks = split_overrides(EncoderConfig, overrides)
    kinds = [layer % 3 > 0 for layer in range(num_layers)] if local is None else list(local)
    narrow: dict[str, Any] = {"window": window, "rotary": local_rotary}
    pattern = tuple(LayerOptions(**narrow) if kind else LayerOptions() for kind in shortest_pattern(kinds[1:]))
    stack: dict[str, Any] = {
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": num_heads,
        "d_ff": d_ff,
        "max_length": 8192,
        "activation": "gelu",
        "gated": True,
        "norm": "layer_unbiased",
        "norm_epsilon": 1e-5,
        "positions": "rotary",
        "rotary": rotary,
        "init": "truncated_normal",
        "init_std": 0.02,
        "init_residual": True,
        "first": (LayerOptions(mixer_norm=False, **(narrow if kinds[0] else {})),),
        "pattern": pattern,
        **stacks,
    }
    head = {"head_transform": True, "transform_bias": False, "head_bias": True, "embedding_norm": True}
    return EncoderConfig(**{"vocab_size": vocab_size, "encoder": StackConfig(**stack), **head, **top})


_SIZES = {"base": (22, 768, 12, 1152), "large": (28, 1024, 16, 2624)}


def sized(size: str, **overrides: Any) -> EncoderConfig:
    """Return ModernBERT "base" or "large"."""
    num_layers, d_model, num_heads, d_ff = _SIZES[size]
    return modernbert(
        **{"num_layers": num_layers, "d_model": d_model, "num_heads": num_heads, "d_ff": d_ff, **overrides}
    )


def _preset(size: str, published: int) -> Preset:
    d_model = _SIZES[size][1]
    return Preset(
        config=partial(sized, size),
        published=published,
        rounding=1_000_000,
        source="Warner et al. 2024, section 2.1.2, the encoders without the masked-LM head",
        besides={
            "with the masked-LM head: dense layer, norm, a bias for each vocabulary entry": d_model * d_model
            + d_model
            + VOCAB_SIZE
        },
    )


PRESETS: dict[str, Preset] = {
    "modernbert:base": _preset("base", 149_000_000),
    "modernbert:large": _preset("large", 395_000_000),
}
