"""Sizes of NeoBERT."""

from __future__ import annotations

from functools import partial
from typing import Any

from t2t.models.bert.presets import VOCAB_SIZE
from t2t.models.config import StackConfig
from t2t.models.encoder import EncoderConfig
from t2t.models.preset import Preset, split_overrides
from t2t.nn.rotary import Rotary

ROTARY = Rotary(base=10_000.0)
"""Rotary positions of every NeoBERT."""
UNIFORM = 3**-0.5
"""Standard deviation of numbers drawn uniformly from -1 to 1. NeoBERT draws kernels and embeddings uniformly, here they are drawn from a normal distribution."""


def inner_width(intermediate_size: int) -> int:
    """Return the inner width of the feed-forward layers for `intermediate_size`: two thirds of it, rounded up to a multiple of 8.

    A gated layer has three matrices, so it has as many parameters as a plain layer of width `intermediate_size` (Shazeer 2020).
    """
    return -(-(2 * intermediate_size // 3) // 8) * 8


def neobert(
    *,
    num_layers: int,
    d_model: int,
    num_heads: int,
    d_ff: int,
    vocab_size: int = VOCAB_SIZE,
    init_range: float = 0.02,
    **overrides: Any,
) -> EncoderConfig:
    """Return the configuration of a NeoBERT of any size, with the masked-LM head, which is not tied to the embeddings.

    init_range: bound of the initial kernels and embeddings; the standard deviation is 1 / sqrt(3) of it.
    overrides:  any other field of EncoderConfig or of StackConfig.
    """
    top, stacks = split_overrides(EncoderConfig, overrides)
    stack: dict[str, Any] = {
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": num_heads,
        "d_ff": d_ff,
        "max_length": 4096,
        "activation": "silu",
        "gated": True,
        "norm": "rms",
        "norm_epsilon": 1e-5,
        "positions": "rotary",
        "rotary": ROTARY,
        "init": "normal",
        "init_std": init_range * UNIFORM,
        **stacks,
    }
    head = {"tied": False, "head_bias": True, "embedding_std": init_range * UNIFORM}
    return EncoderConfig(**{"vocab_size": vocab_size, "encoder": StackConfig(**stack), **head, **top})


_SIZES = {"250m": (28, 768, 12, inner_width(3072))}


def sized(size: str, **overrides: Any) -> EncoderConfig:
    """Return NeoBERT "250m". It is the only published size."""
    num_layers, d_model, num_heads, d_ff = _SIZES[size]
    return neobert(**{"num_layers": num_layers, "d_model": d_model, "num_heads": num_heads, "d_ff": d_ff, **overrides})


PRESETS: dict[str, Preset] = {
    "neobert:250m": Preset(
        config=partial(sized, "250m"),
        published=250_000_000,
        rounding=10_000_000,
        source="Le Breton et al. 2025, table 1; the released file has 245,136,954 parameters, with the head",
    ),
}
