"""Sizes of BART."""

from __future__ import annotations

from functools import partial
from typing import Any

from t2t.models.config import StackConfig
from t2t.models.encoder_decoder import EncoderDecoderConfig
from t2t.models.preset import Preset, split_overrides

VOCAB_SIZE = 50_265
"""Vocabulary size: GPT-2's byte-level BPE, special tokens, and rows that no token uses."""

SINUSOIDAL: dict[str, Any] = {
    "positions": "sinusoidal",
    "position_offset": 0,
    "separate_positions": False,
    "embedding_norm": False,
}
"""Fields of the families with fixed positions and without a norm of the embeddings: PEGASUS and Marian."""


def bart(
    *,
    num_layers: int,
    d_model: int,
    num_heads: int,
    d_ff: int | None = None,
    num_decoder_layers: int | None = None,
    max_length: int = 1024,
    vocab_size: int = VOCAB_SIZE,
    **overrides: Any,
) -> EncoderDecoderConfig:
    """Return the configuration of a BART of any size.

    num_layers: depth of the encoder, and of the decoder if `num_decoder_layers` is None.
    d_ff:       inner width of the feed-forward layers; None means 4 * d_model.
    max_length: number of learned positions of each stack.
    overrides:  any other field of EncoderDecoderConfig or, for both stacks, of StackConfig.

    Raises:
        UserError: a field is unknown, or values contradict each other.
    """
    top, stacks = split_overrides(EncoderDecoderConfig, overrides)
    stack: dict[str, Any] = {
        "d_model": d_model,
        "num_heads": num_heads,
        "d_ff": 4 * d_model if d_ff is None else d_ff,
        "max_length": max_length,
        "activation": "gelu",
        "biases": True,
        "norm": "layer",
        "norm_epsilon": 1e-5,
        "norm_place": "post",
        "final_norm": False,
        "positions": "learned",
        "position_offset": 2,
        "init": "normal",
        "init_std": 0.02,
        **stacks,
    }
    decoder_layers = num_layers if num_decoder_layers is None else num_decoder_layers
    return EncoderDecoderConfig(
        **{
            "vocab_size": vocab_size,
            "encoder": StackConfig(num_layers=num_layers, **stack),
            "decoder": StackConfig(num_layers=decoder_layers, **stack),
            "embedding_norm": True,
            "separate_positions": True,
            "dropout": 0.1,
            **top,
        }
    )


_SIZES = {"base": (6, 768, 12), "large": (12, 1024, 16)}


def sized(size: str, **overrides: Any) -> EncoderDecoderConfig:
    """Return BART "base" or "large"."""
    num_layers, d_model, num_heads = _SIZES[size]
    return bart(**{"num_layers": num_layers, "d_model": d_model, "num_heads": num_heads, **overrides})


PRESETS: dict[str, Preset] = {
    f"bart:{size}": Preset(
        config=partial(sized, size), published=count, source=f"released checkpoint facebook/bart-{size}"
    )
    for size, count in {"base": 139_420_416, "large": 406_291_456}.items()
}
