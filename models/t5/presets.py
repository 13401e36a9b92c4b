"""Sizes of T5."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from typing import Any

from t2t import former_names
from t2t.errors import UserError, nearest
from t2t.models.config import StackConfig
from t2t.models.encoder import EncoderConfig
from t2t.models.encoder_decoder import EncoderDecoderConfig
from t2t.models.preset import Preset, split_overrides
from t2t.models.transformer_config import TransformerConfig

VOCAB_SIZE = 32128
"""Vocabulary size: 32,000 SentencePiece pieces and 100 sentinels, rounded up to a multiple of 128."""

VERSIONS = ("1.0", "1.1")


@former_names.sizes
def t5(
    *,
    num_layers: int,
    d_model: int,
    num_heads: int,
    d_ff: int,
    head_dim: int | None = None,
    num_decoder_layers: int | None = None,
    vocab_size: int = VOCAB_SIZE,
    version: str = "1.1",
    **overrides: Any,
) -> EncoderDecoderConfig:
    """Return the configuration of a T5 of any size.

    num_layers: depth of the encoder, and of the decoder if `num_decoder_layers` is None.
    version:    "1.0" (ReLU, tied) or "1.1" (gated GELU, separate head).
    overrides:  any other field of EncoderDecoderConfig or, for both stacks, of StackConfig.

    Raises:
        UserError: the version or a field is unknown, or values contradict each other.
    """
    if version not in VERSIONS:
        raise UserError(f"unknown T5 version {version!r}.{nearest(version, VERSIONS)}")
    first = version == "1.0"
    top, stacks = split_overrides(EncoderDecoderConfig, overrides)
    stack: dict[str, Any] = {
        "d_model": d_model,
        "num_heads": num_heads,
        "head_dim": head_dim,
        "d_ff": d_ff,
        "activation": "relu" if first else "gelu_tanh",
        "gated": not first,
        "norm": "rms",
        "positions": "relative",
        "scaled_attention": False,
        "mlp_dropout": True,
        "final_dropout": True,
        "init": "fan_in",
        **stacks,
    }
    return EncoderDecoderConfig(
        **{
            "vocab_size": vocab_size,
            "encoder": StackConfig(num_layers=num_layers, **stack),
            "decoder": StackConfig(
                num_layers=num_layers if num_decoder_layers is None else num_decoder_layers, **stack
            ),
            "dropout": 0.1 if first else 0.0,
            "tied": first,
            "scaled_head": first,
            "embedding_std": 1.0,
            **top,
        }
    )


def encoder_of(config: EncoderDecoderConfig) -> EncoderConfig:
    """Return the encoder of a T5 alone. It computes vectors of texts. Its parameters have the names that they have in the T5.

    Its logits are the product with the embeddings: without training for it, it does not predict tokens.
    """
    common = {field.name: getattr(config, field.name) for field in fields(TransformerConfig)}
    return EncoderConfig(**{**common, "encoder": config.encoder, "tied": True, "scaled_head": False})


#              num_layers d_model  d_ff   num_heads head_dim
_SIZES_1_0 = {
    "small": (6, 512, 2048, 8, 64),
    "base": (12, 768, 3072, 12, 64),
    "large": (24, 1024, 4096, 16, 64),
    "3b": (24, 1024, 16384, 32, 128),
    "11b": (24, 1024, 65536, 128, 128),
}
SIZES_1_1 = {
    "small": (8, 512, 1024, 6, 64),
    "base": (12, 768, 2048, 12, 64),
    "large": (24, 1024, 2816, 16, 64),
    "xl": (24, 2048, 5120, 32, 64),
    "xxl": (24, 4096, 10240, 64, 64),
}
_UL2 = (32, 4096, 16384, 16, 256)


@former_names.sizes
def _sized(size: tuple[int, ...], version: str, **overrides: Any) -> EncoderDecoderConfig:
    num_layers, d_model, d_ff, num_heads, head_dim = size
    sizes = {"num_layers": num_layers, "d_model": d_model, "d_ff": d_ff, "num_heads": num_heads, "head_dim": head_dim}
    return t5(**{**sizes, "version": version, **overrides})


@former_names.sizes
def v1_0(size: str, **overrides: Any) -> EncoderDecoderConfig:
    """Return T5 v1.0 "small", "base", "large", "3b" or "11b"."""
    return _sized(_SIZES_1_0[size], "1.0", **overrides)


@former_names.sizes
def v1_1(size: str, **overrides: Any) -> EncoderDecoderConfig:
    """Return T5 v1.1 "small", "base", "large", "xl" or "xxl"."""
    return _sized(SIZES_1_1[size], "1.1", **overrides)


def ul2(**overrides: Any) -> EncoderDecoderConfig:
    """Return UL2 20B, whose size FLAN-UL2 has too: T5 v1.1 with gated SiLU (Tay et al. 2022, "UL2")."""
    return _sized(_UL2, "1.1", **{"activation": "silu", **overrides})


_PUBLISHED_1_0 = {
    "small": 60_506_624,
    "base": 222_903_552,
    "large": 737_668_096,
    "3b": 2_851_598_336,
    "11b": 11_307_321_344,
}
_PUBLISHED_1_1 = {
    "small": 76_961_152,
    "base": 247_577_856,
    "large": 783_150_080,
    "xl": 2_849_757_184,
    "xxl": 11_135_332_352,
}
_SOURCE = "released checkpoints of google-research/text-to-text-transfer-transformer"

PRESETS: dict[str, Preset] = {
    **{
        f"t5:1.0-{size}": Preset(config=partial(v1_0, size), published=count, source=f"{_SOURCE}, t5.1.0.{size}")
        for size, count in _PUBLISHED_1_0.items()
    },
    **{
        f"t5:1.1-{size}": Preset(config=partial(v1_1, size), published=count, source=f"{_SOURCE}, t5.1.1.{size}")
        for size, count in _PUBLISHED_1_1.items()
    },
    "t5:ul2-20b": Preset(config=ul2, published=20_000_000_000, source="Tay et al. 2022", rounding=1_000_000_000),
}
