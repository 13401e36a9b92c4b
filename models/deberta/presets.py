"""Sizes of DeBERTa v2 and v3."""

from __future__ import annotations

from functools import partial
from typing import Any

from t2t.models.bert.presets import bert
from t2t.models.config import LayerOptions
from t2t.models.encoder import EncoderConfig
from t2t.models.preset import Preset
from t2t.nn.convolution import ConvolutionConfig
from t2t.nn.disentangled import Disentangled

VOCAB_SIZE = 128_100
"""Size of the SentencePiece vocabulary with [MASK], padded."""


def deberta(
    *,
    num_layers: int,
    d_model: int,
    num_heads: int,
    vocab_size: int = VOCAB_SIZE,
    convolution: ConvolutionConfig | None = None,
    **overrides: Any,
) -> EncoderConfig:
    """Return the configuration of a DeBERTa of any size, with the masked-LM head and without pooler.

    convolution: convolution of the first layer's input, which version 2 has; None for none.
    overrides:   any other field of EncoderConfig or of StackConfig, and the arguments of `t2t.models.bert.bert`.
    """
    fields: dict[str, Any] = {
        "types": 0,
        "norm_epsilon": 1e-7,
        "positions": "disentangled",
        "disentangled": Disentangled(),
        "first": () if convolution is None else (LayerOptions(convolution=convolution),),
        **overrides,
    }
    return bert(num_layers=num_layers, d_model=d_model, num_heads=num_heads, vocab_size=vocab_size, **fields)


_SIZES: dict[str, dict[str, Any]] = {
    "v2-xlarge": {"num_layers": 24, "d_model": 1536, "num_heads": 24, "convolution": ConvolutionConfig()},
    "v3-xsmall": {"num_layers": 12, "d_model": 384, "num_heads": 6},
    "v3-small": {"num_layers": 6, "d_model": 768, "num_heads": 12},
    "v3-base": {"num_layers": 12, "d_model": 768, "num_heads": 12},
    "v3-large": {"num_layers": 24, "d_model": 1024, "num_heads": 16},
}


def sized(size: str, **overrides: Any) -> EncoderConfig:
    """Return DeBERTa "v2-xlarge", "v3-xsmall", "v3-small", "v3-base" or "v3-large"."""
    return deberta(**{**_SIZES[size], **overrides})


def _version3(size: str, published: int) -> Preset:
    d_model = _SIZES[size]["d_model"]
    return Preset(
        config=partial(sized, size),
        published=published,
        rounding=1_000_000,
        source="He et al. 2021, arXiv 2111.09543, backbone without embeddings. The numbers are those of the discriminator with its head",
        besides={
            "with the token embeddings": VOCAB_SIZE * d_model,
            "with a bias for each vocabulary entry, the masked-LM head's": VOCAB_SIZE,
            "without the discriminator's last layer": -(d_model + 1),
        },
    )


PRESETS: dict[str, Preset] = {
    "deberta:v2-xlarge": Preset(
        config=partial(sized, "v2-xlarge"),
        published=900_000_000,
        rounding=100_000_000,
        source="microsoft/DeBERTa's table of pretrained models: V2-XLarge, 900M",
        besides={
            "with the masked-LM head: dense layer, norm, a bias for each vocabulary entry": 1536 * 1536
            + 3 * 1536
            + VOCAB_SIZE
        },
    ),
    "deberta:v3-xsmall": _version3("v3-xsmall", 22_000_000),
    "deberta:v3-small": _version3("v3-small", 44_000_000),
    "deberta:v3-base": _version3("v3-base", 86_000_000),
    "deberta:v3-large": _version3("v3-large", 304_000_000),
}
