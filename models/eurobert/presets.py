"""Sizes of EuroBERT."""

from __future__ import annotations

from functools import partial
from typing import Any

from t2t.models.config import StackConfig
from t2t.models.encoder import EncoderConfig
from t2t.models.preset import Preset, split_overrides
from t2t.nn.rotary import Rotary

VOCAB_SIZE = 128_256
"""Size of the vocabulary."""


def eurobert(
    *,
    num_layers: int,
    d_model: int,
    num_heads: int,
    num_kv_heads: int | None = None,
    d_ff: int,
    vocab_size: int = VOCAB_SIZE,
    **overrides: Any,
) -> EncoderConfig:
    """Return the configuration of a EuroBERT of any size, whose head is not tied to the embeddings.

    num_kv_heads: number of key and value heads; None means the same as `num_heads`.
    overrides:    any other field of EncoderConfig or of StackConfig.
    """
    top, stacks = split_overrides(EncoderConfig, overrides)
    stack: dict[str, Any] = {
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "d_ff": d_ff,
        "max_length": 8192,
        "activation": "silu",
        "gated": True,
        "norm": "rms",
        "norm_epsilon": 1e-5,
        "positions": "rotary",
        "rotary": Rotary(base=250_000.0),
        "init": "normal",
        "init_std": 0.02,
        **stacks,
    }
    return EncoderConfig(**{"vocab_size": vocab_size, "encoder": StackConfig(**stack), "tied": False, **top})


#              layers width heads kv_heads d_ff
_SIZES = {
    "210m": (12, 768, 12, 12, 3072),
    "610m": (26, 1152, 18, 6, 4096),
    "2.1b": (32, 2304, 18, 6, 6144),
}


def sized(size: str, **overrides: Any) -> EncoderConfig:
    """Return EuroBERT "210m", "610m" or "2.1b"."""
    num_layers, d_model, num_heads, num_kv_heads, d_ff = _SIZES[size]
    sizes = {
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "d_ff": d_ff,
    }
    return eurobert(**{**sizes, **overrides})


def _preset(size: str, published: int, rounding: int) -> Preset:
    return Preset(
        config=partial(sized, size),
        published=published,
        rounding=rounding,
        source="names of the released checkpoints, which do not count the head",
        besides={"with the head, which is not tied to the embeddings": VOCAB_SIZE * _SIZES[size][1]},
    )


_MILLION = 1_000_000

PRESETS: dict[str, Preset] = {
    "eurobert:210m": _preset("210m", 210 * _MILLION, 10 * _MILLION),
    "eurobert:610m": _preset("610m", 610 * _MILLION, 10 * _MILLION),
    "eurobert:2.1b": _preset("2.1b", 2100 * _MILLION, 100 * _MILLION),
}
