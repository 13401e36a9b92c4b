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


def _stack(
    num_layers: int, d_model: int, d_ff: int, num_heads: int, head_dim: int, num_kv_heads: int
) -> dict[str, int]:
    return {
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "head_dim": head_dim,
        "d_ff": d_ff,
    }


# Sizes: gemma/research/t5gemma/config.py of https://github.com/google-deepmind/gemma.
_2B = _stack(26, 2304, 9216, 8, 256, 4)
_9B = _stack(42, 3584, 14_336, 16, 256, 8)
_SMALL = _stack(8, 512, 1024, 8, 64, 8)
_BASE = _stack(12, 768, 2048, 12, 64, 12)
_LARGE = _stack(24, 1024, 2816, 16, 64, 16)
_ML = _stack(26, 1152, 6912, 4, 256, 4)
_XL = _stack(24, 2048, 5120, 32, 64, 32)
_SIZES = {
    "2b-2b": (_2B, _2B),
    "9b-2b": (_9B, _2B),
    "9b-9b": (_9B, _9B),
    **{
        name: (sizes, sizes)
        for name, sizes in (("small", _SMALL), ("base", _BASE), ("large", _LARGE), ("ml", _ML), ("xl", _XL))
    },
}


def sized(size: str, **overrides: Any) -> EncoderDecoderConfig:
    """Return "2b-2b", "9b-2b" or "9b-9b", the sizes of Gemma 2 of the encoder and of the decoder, or "small", "base", "large", "ml" or "xl", the sizes of T5.

    "ml" (medium large) is between T5's large and xl.
    """
    encoder, decoder = _SIZES[size]
    return t5gemma(**{"encoder": encoder, "decoder": decoder, **overrides})


_PUBLISHED = {
    "2b-2b": 5_596_853_760,
    "9b-2b": 12_292_375_296,
    "9b-9b": 20_333_401_088,
    "small": 312_517_632,
    "base": 591_490_560,
    "large": 1_241_761_792,
    "ml": 2_200_345_344,
    "xl": 3_766_980_608,
}
_COMPUTED = ("2b-2b", "large")
"""Sizes whose count is computed from their published sizes. The other counts are those of released checkpoints."""

PRESETS: dict[str, Preset] = {
    f"t5gemma:{size}": Preset(
        config=partial(sized, size),
        published=count,
        source="computed from its sizes" if size in _COMPUTED else "released checkpoints",
    )
    for size, count in _PUBLISHED.items()
}
