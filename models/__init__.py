"""Encoders, decoders and encoder-decoders, and the families built from them: T5, BART, GPT, BERT, LLaMA and others. Installed as `t2t.models`."""

if __name__ != "t2t.models":
    raise ImportError("import t2t.models, not models: a second copy of the package would register everything twice")

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from t2t.models.config import StackConfig
from t2t.models.decoder import DecoderConfig
from t2t.models.encoder import EncoderConfig
from t2t.models.encoder_decoder import EncoderDecoderConfig
from t2t.models.preset import Preset
from t2t.models.registry import FAMILIES, Row, active_count, count, parameter_table, preset, presets, table_text
from t2t.models.transformer_config import TransformerConfig

if TYPE_CHECKING:
    from t2t.models import (
        bart,
        bert,
        bitnet,
        deberta,
        deepseek,
        electra,
        eurobert,
        gemma,
        gpt,
        gptoss,
        llama,
        longt5,
        mamba,
        marian,
        mbart,
        mixtral,
        modernbert,
        mpnet,
        neobert,
        neox,
        olmo,
        pegasus,
        phi,
        qwen,
        retnet,
        roberta,
        rwkv,
        smollm3,
        switch,
        t5,
        t5gemma,
        t5gemma2,
    )

__all__ = [
    "DecoderConfig",
    "EncoderConfig",
    "EncoderDecoderConfig",
    "Preset",
    "Row",
    "StackConfig",
    "TransformerConfig",
    "active_count",
    "bart",
    "bert",
    "bitnet",
    "count",
    "deberta",
    "deepseek",
    "electra",
    "eurobert",
    "gemma",
    "gpt",
    "gptoss",
    "llama",
    "longt5",
    "mamba",
    "marian",
    "mbart",
    "mixtral",
    "modernbert",
    "mpnet",
    "neobert",
    "neox",
    "olmo",
    "parameter_table",
    "pegasus",
    "phi",
    "preset",
    "presets",
    "qwen",
    "retnet",
    "roberta",
    "rwkv",
    "smollm3",
    "switch",
    "t5",
    "t5gemma",
    "t5gemma2",
    "table_text",
]


def __getattr__(name: str) -> ModuleType:
    """Import the module of a family at its first use: a command that reads one run needs none of the other families' presets."""
    if name in FAMILIES:
        return importlib.import_module(f"t2t.models.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
