"""Encoders, decoders and encoder-decoders, and the families built from them: T5, GPT, BERT, ELECTRA, LLaMA, Qwen, Gemma. Installed as `t2t.models`."""

if __name__ != "t2t.models":
    raise ImportError("import t2t.models, not models: a second copy of the package would register everything twice")

from t2t.models import bart, bert, electra, gemma, gpt, llama, modernbert, qwen, smollm3, t5
from t2t.models.config import StackConfig, TransformerConfig
from t2t.models.decoder import DecoderConfig
from t2t.models.encoder import EncoderConfig
from t2t.models.encoder_decoder import EncoderDecoderConfig
from t2t.models.preset import Preset
from t2t.models.registry import Row, count, parameter_table, preset, presets, table_text

__all__ = [
    "DecoderConfig",
    "EncoderConfig",
    "EncoderDecoderConfig",
    "Preset",
    "Row",
    "StackConfig",
    "TransformerConfig",
    "bart",
    "bert",
    "count",
    "electra",
    "gemma",
    "gpt",
    "llama",
    "modernbert",
    "parameter_table",
    "preset",
    "presets",
    "qwen",
    "smollm3",
    "t5",
    "table_text",
]
