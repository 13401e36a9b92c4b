"""Sizes of T5Gemma."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from t2t.models.config import StackConfig
from t2t.models.encoder_decoder import EncoderDecoderConfig
from t2t.models.gemma.presets import alternating, layers
from t2t.models.preset import Preset, split_overrides


def t5gemma(
    *,
    encoder: Mapping[str, Any],
    decoder: Mapping[str, Any],
    window: int = 4096,
    vocab_size: int = 256_000,
    **overrides: Any,
) -> EncoderDecoderConfig:
    """Return the configuration of a T5Gemma of any size.

    encoder, decoder: fields of their StackConfig: the sizes, and others.
    window:    window of every second layer, starting with the first. A token of the encoder sees `window` tokens on either side.
    overrides: any other field of EncoderDecoderConfig or, for both stacks, of StackConfig.
    """
    top, stacks = split_overrides(EncoderDecoderConfig, overrides)
    both = {**layers(), "attention_softcap": 50.0, "mlp_dropout": True, "final_dropout": True}
    sides = [
        StackConfig(**{**both, "pattern": alternating(own_window), **fields, **stacks})
        for own_window, fields in ((2 * window, encoder), (window, decoder))
    ]
    own: dict[str, Any] = {
        "vocab_size": vocab_size,
        "encoder": sides[0],
        "decoder": sides[1],
        "separate_embeddings": True,
        "encoder_embedding_scale": sides[0].d_model ** 0.5,
        "embedding_scale": sides[1].d_model ** 0.5,
        "final_softcap": 30.0,
    }
    return EncoderDecoderConfig(**{**own, **top})


_2B = {"num_layers": 26, "d_model": 2304, "num_heads": 8, "num_kv_heads": 4, "head_dim": 256, "d_ff": 9216}
_9B = {"num_layers": 42, "d_model": 3584, "num_heads": 16, "num_kv_heads": 8, "head_dim": 256, "d_ff": 14_336}
_SIZES = {"2b-2b": (_2B, _2B), "9b-2b": (_9B, _2B), "9b-9b": (_9B, _9B)}


def sized(size: str, **overrides: Any) -> EncoderDecoderConfig:
    """Return "2b-2b", "9b-2b" or "9b-9b": the sizes of the encoder and of the decoder."""
    encoder, decoder = _SIZES[size]
    return t5gemma(**{"encoder": encoder, "decoder": decoder, **overrides})


_PUBLISHED = {"2b-2b": 5_596_853_760, "9b-2b": 12_292_375_296, "9b-9b": 20_333_401_088}
_SOURCES = {"2b-2b": "computed from its sizes; the other counts are those of released checkpoints"}

PRESETS: dict[str, Preset] = {
    f"t5gemma:{size}": Preset(
        config=partial(sized, size), published=count, source=_SOURCES.get(size, "released checkpoints")
    )
    for size, count in _PUBLISHED.items()
}
