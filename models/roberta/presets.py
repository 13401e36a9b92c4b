"""Sizes of RoBERTa and XLM-RoBERTa."""

from __future__ import annotations

from functools import partial
from typing import Any

from t2t.models.bert.presets import bert
from t2t.models.encoder import EncoderConfig
from t2t.models.preset import Preset

OFFSET = 2
"""Number of unused rows before the learned position 0: positions are counted from after the id of padding, which is 1."""
PRE_NORM: dict[str, Any] = {"norm_place": "pre", "final_norm": True, "embedding_norm": False}
"""The fields of XLM-RoBERTa-XL that differ from those of RoBERTa."""
_ROBERTA, _XLM, _XL = 50_265, 250_002, 250_880
"""Sizes of the vocabularies: byte-level BPE of English, SentencePiece of 100 languages, and the latter with padding."""


def roberta(
    *, num_layers: int, d_model: int, num_heads: int, vocab_size: int = _ROBERTA, **overrides: Any
) -> EncoderConfig:
    """Return the configuration of a RoBERTa of any size, with the masked-LM head and without pooler.

    overrides: any other field of EncoderConfig or of StackConfig, and the arguments of `t2t.models.bert.bert`.
    """
    fields: dict[str, Any] = {"types": 1, "norm_epsilon": 1e-5, "position_offset": OFFSET, **overrides}
    return bert(num_layers=num_layers, d_model=d_model, num_heads=num_heads, vocab_size=vocab_size, **fields)


#            layers width heads vocabulary, other fields
_SIZES: dict[str, tuple[int, int, int, int, dict[str, Any]]] = {
    "base": (12, 768, 12, _ROBERTA, {}),
    "large": (24, 1024, 16, _ROBERTA, {}),
    "xlm-base": (12, 768, 12, _XLM, {}),
    "xlm-large": (24, 1024, 16, _XLM, {}),
    "xlm-xl": (36, 2560, 32, _XL, PRE_NORM),
    "xlm-xxl": (48, 4096, 32, _XL, PRE_NORM),
}


def sized(size: str, **overrides: Any) -> EncoderConfig:
    """Return RoBERTa "base" or "large", or XLM-RoBERTa "xlm-base", "xlm-large", "xlm-xl" or "xlm-xxl"."""
    num_layers, d_model, num_heads, vocab_size, fields = _SIZES[size]
    sizes = {"num_layers": num_layers, "d_model": d_model, "num_heads": num_heads, "vocab_size": vocab_size}
    return roberta(**{**sizes, **fields, **overrides})


def _preset(size: str, published: int, *, rounding: int, source: str) -> Preset:
    return Preset(config=partial(sized, size), published=published, rounding=rounding, source=source)


def _released(size: str, published: int) -> Preset:
    d_model = _SIZES[size][1]
    return Preset(
        config=partial(sized, size),
        published=published,
        source="released checkpoint in the files of transformers, with the masked-LM head (Conneau et al. 2020 have 270M and 550M)",
        besides={"without the pooler": -(d_model * d_model + d_model)},
    )


_MILLION = 1_000_000
_FAIRSEQ = "fairseq's table of pretrained models"

PRESETS: dict[str, Preset] = {
    "roberta:base": _preset("base", 125 * _MILLION, rounding=_MILLION, source=_FAIRSEQ),
    "roberta:large": _preset("large", 355 * _MILLION, rounding=_MILLION, source=_FAIRSEQ),
    "roberta:xlm-base": _released("xlm-base", 278_885_778),
    "roberta:xlm-large": _released("xlm-large", 561_192_082),
    "roberta:xlm-xl": _preset("xlm-xl", 3500 * _MILLION, rounding=100 * _MILLION, source="Goyal et al. 2021"),
    "roberta:xlm-xxl": _preset("xlm-xxl", 10_700 * _MILLION, rounding=100 * _MILLION, source="Goyal et al. 2021"),
}
