"""Sizes of BERT."""

from __future__ import annotations

from functools import partial
from typing import Any

from t2t import former_names
from t2t.models.config import StackConfig
from t2t.models.encoder import EncoderConfig
from t2t.models.preset import Preset, split_overrides

VOCAB_SIZE = 30522
"""Vocabulary size of uncased WordPiece."""

STACK: dict[str, Any] = {
    "activation": "gelu",
    "biases": True,
    "norm": "layer",
    "norm_epsilon": 1e-12,
    "norm_place": "post",
    "final_norm": False,
    "positions": "learned",
    "init": "truncated_normal",
    "init_std": 0.02,
}
"""Options of the stack of every BERT."""


@former_names.sizes
def bert(
    *,
    num_layers: int,
    d_model: int,
    num_heads: int,
    d_ff: int | None = None,
    max_length: int = 512,
    vocab_size: int = VOCAB_SIZE,
    **overrides: Any,
) -> EncoderConfig:
    """Return the configuration of a BERT of any size, with the masked-LM head and without pooler and next-sentence classifier.

    d_ff:       inner width of the feed-forward layers; None means 4 * d_model.
    max_length: number of learned positions.
    overrides:  any other field of EncoderConfig or of StackConfig.
    """
    top, stacks = split_overrides(EncoderConfig, overrides)
    stack: dict[str, Any] = {
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": num_heads,
        "d_ff": 4 * d_model if d_ff is None else d_ff,
        "max_length": max_length,
        **STACK,
        **stacks,
    }
    return EncoderConfig(
        **{
            "vocab_size": vocab_size,
            "encoder": StackConfig(**stack),
            "types": 2,
            "embedding_norm": True,
            "head_transform": True,
            "head_bias": True,
            "dropout": 0.1,
            **top,
        }
    )


_SIZES = {"base": (12, 768, 12), "large": (24, 1024, 16)}


@former_names.sizes
def sized(size: str, **overrides: Any) -> EncoderConfig:
    """Return BERT "base" or "large", uncased.

    The published counts, 109,482,240 and 335,141,888, include the pooler and not the masked-LM head. This model has the masked-LM head and no pooler:
    109,514,298 and 335,174,458 parameters.
    """
    num_layers, d_model, num_heads = _SIZES[size]
    return bert(**{"num_layers": num_layers, "d_model": d_model, "num_heads": num_heads, **overrides})


def _preset(size: str, published: int) -> Preset:
    d_model = _SIZES[size][1]
    return Preset(
        config=partial(sized, size),
        published=published,
        source="released checkpoints of google-research/bert, uncased, without the cls/ variables",
        besides={
            "without the pooler, which only next-sentence prediction uses": -(d_model * d_model + d_model),
            "with the masked-LM head: dense layer, norm, a bias for each vocabulary entry": d_model * d_model
            + 3 * d_model
            + VOCAB_SIZE,
        },
    )


PRESETS: dict[str, Preset] = {
    "bert:base": _preset("base", 109_482_240),
    "bert:large": _preset("large", 335_141_888),
}
