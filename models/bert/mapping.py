"""Conversion of BERT models, such as MiniLM, to and from `transformers`: BertForPreTraining, BertForMaskedLM, BertModel, and the heads of `heads.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from t2t.export.family import Family, Options, Weights, activation_name
from t2t.export.mapping import Entry, Transposed, linear, normalised, same
from t2t.models.bert.heads import Heads
from t2t.models.bert.presets import bert
from t2t.models.encoder import EncoderConfig
from t2t.nn.model import ModelConfig

POOLER = "classifiers of texts use the pooler, this head does not"


class Bert(Family):
    """BERT."""

    name = "BERT"
    model_types = ("bert",)
    prefix = "bert."
    heads = Heads(
        model="Bert",
        pooler="bert.pooler.dense",
        base_pooler="bert.pooler.dense",
        pair="cls.seq_relationship",
        pair_alone=True,
    )
    left_out: ClassVar[Mapping[str, str]] = {
        r"(bert\.)?pooler\.dense\.(weight|bias)": POOLER,
        r"cls\.predictions\.bias": "an untied head uses decoder.bias instead",
        r"cls\.seq_relationship\.(weight|bias)": "next-sentence prediction",
    }

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return the configuration. Without the tensors of a masked-LM head, logits are the product with the embeddings."""
        options.must("position_embedding_type", "absolute", why="relative positions of BERT are not supported")
        masked_lm = "cls.predictions.transform.dense.weight" in weights.names
        return bert(
            **common(options),
            types=options.size("type_vocab_size", 2),
            **self.heads.read(options, weights, masked_lm=masked_lm),
        )

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family."""
        if not isinstance(config, EncoderConfig) or not config.types or config.encoder.position_offset:
            return None
        if config.embedding_size is not None:
            return None
        architecture = "BertForMaskedLM" if config.head_transform else "BertModel"
        return {
            "architectures": [architecture],
            "model_type": "bert",
            **common_options(config),
            **self.heads.options(config),
        }

    def entries(self, config: ModelConfig) -> list[Entry]:
        """Return the entries of all tensors."""
        assert isinstance(config, EncoderConfig)
        words = head(config, "cls.predictions.transform", "LayerNorm", "cls.predictions")
        return [*body(config, "bert.", "cls.predictions.decoder.weight"), *words, *self.heads.entries(config)]


def common(options: Options) -> dict[str, Any]:
    """Return the configuration fields that BERT-like models share."""
    options.must("is_decoder", False, why="an encoder is expected")
    options.must("add_cross_attention", False, why="an encoder is expected")
    heads, embed = options.size("num_attention_heads"), options.size("hidden_size")
    return {
        "num_layers": options.size("num_hidden_layers"),
        "d_model": embed,
        "num_heads": heads,
        "d_ff": options.size("intermediate_size"),
        "max_length": options.size("max_position_embeddings", 512),
        "vocab_size": options.size("vocab_size"),
        "activation": options.activation("hidden_act", "gelu"),
        "norm_epsilon": options.number("layer_norm_eps", 1e-12),
        "dropout": options.number("hidden_dropout_prob", 0.1),
        "attention_dropout": options.number("attention_probs_dropout_prob", 0.1),
        "init_std": options.number("initializer_range", 0.02),
    }


def common_options(config: EncoderConfig) -> dict[str, Any]:
    """Return the options of config.json that BERT-like models share."""
    stack = config.encoder
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": stack.d_model,
        "num_hidden_layers": stack.num_layers,
        "num_attention_heads": stack.num_heads,
        "intermediate_size": stack.d_ff,
        "hidden_act": activation_name(stack.activation),
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_rate,
        "max_position_embeddings": stack.max_length,
        "type_vocab_size": config.types,
        "initializer_range": stack.init_std,
        "layer_norm_eps": stack.norm_epsilon,
        "tie_word_embeddings": config.tied,
    }


def body(config: EncoderConfig, prefix: str, *copies: str) -> list[Entry]:
    """Return the entries of the embeddings and blocks of BERT, RoBERTa and ELECTRA. copies: names of a masked-LM head's copy of the embeddings."""
    stack = config.encoder
    table = [
        same(
            f"{prefix}embeddings.word_embeddings.weight",
            "embeddings/token/table",
            *(copies if config.tied and config.head_transform and config.head == "tokens" else ()),
        ),
        same(f"{prefix}embeddings.position_embeddings.weight", "embeddings/position/table"),
        same(f"{prefix}embeddings.token_type_embeddings.weight", "embeddings/type/table"),
        *normalised(f"{prefix}embeddings.LayerNorm", "embeddings/norm", bias=True),
    ]
    layer, ours = f"{prefix}encoder.layer.{{layer}}", "encoder/layers"
    for theirs, own in (
        ("attention.self.query", "attention/query"),
        ("attention.self.key", "attention/key"),
        ("attention.self.value", "attention/value"),
        ("attention.output.dense", "attention/out"),
        ("intermediate.dense", "mlp/up"),
        ("output.dense", "mlp/down"),
    ):
        table += linear(f"{layer}.{theirs}", f"{ours}/{own}", bias=stack.biases)
    table += normalised(f"{layer}.attention.output.LayerNorm", f"{ours}/attention_norm", bias=True)
    return [*table, *normalised(f"{layer}.output.LayerNorm", f"{ours}/mlp_norm", bias=True)]


def head(config: EncoderConfig, transform: str, norm: str, whole: str) -> list[Entry]:
    """Return the entries of a masked-LM head, or [] if there is none.

    transform: the dense layer and norm of the head are TRANSFORM.dense and TRANSFORM.`norm`.
    whole:     WHOLE.bias and WHOLE.decoder compute the logits.
    """
    if not config.head_transform or config.head != "tokens":
        return []
    table = [
        *linear(f"{transform}.dense", "transform/dense", bias=True),
        *normalised(f"{transform}.{norm}", "transform/norm", bias=True),
    ]
    if config.tied:
        table.append(same(f"{whole}.bias", "lm_head/bias", f"{whole}.decoder.bias"))
    else:
        table.append(same(f"{whole}.decoder.bias", "lm_head/bias"))
        table.append(Entry(f"{whole}.decoder.weight", ("lm_head/kernel",), Transposed()))
    return table
