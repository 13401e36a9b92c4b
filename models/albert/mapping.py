"""Conversion of ALBERT to and from `transformers`: AlbertForPreTraining, AlbertForMaskedLM, and the heads of `bert/heads.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from t2t.export.family import Family, Options, Weights
from t2t.export.mapping import Entry, linear, normalised, same
from t2t.models.bert.heads import Heads
from t2t.models.bert.mapping import POOLER, common, common_options, head
from t2t.models.bert.presets import bert
from t2t.models.encoder import EncoderConfig
from t2t.nn.model import ModelConfig


class Albert(Family):
    """ALBERT."""

    name = "ALBERT"
    model_types = ("albert",)
    prefix = "albert."
    heads = Heads(model="Albert", pooler="albert.pooler", base_pooler="albert.pooler", pair="sop_classifier.classifier")
    left_out: ClassVar[Mapping[str, str]] = {
        r"predictions\.bias": "an untied head uses decoder.bias instead",
        r"(albert\.)?pooler\.(weight|bias)": POOLER,
        r"predictions\.sop_classifier\..*|sop_classifier\..*": "sentence-order prediction",
    }

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return the configuration."""
        options.must("position_embedding_type", "absolute", why="relative positions of BERT are not supported")
        options.must("inner_group_num", 1, why="groups of more than one layer are not supported")
        masked_lm = "predictions.dense.weight" in weights.names
        head_fields, sizes = self.heads.read(options, weights, masked_lm=masked_lm), common(options)
        if (
            not masked_lm and "head" not in head_fields
        ):  # the embeddings are too narrow to compute logits from the outputs
            head_fields = {**head_fields, "head": "vectors", "kept_pair_classifier": False}
        return bert(
            **{**sizes, "activation": options.activation("hidden_act", "gelu_new")},
            groups=options.size("num_hidden_groups", 1),
            embedding_size=options.size("embedding_size", 128),
            types=options.size("type_vocab_size", 2),
            **head_fields,
        )

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family."""
        if not isinstance(config, EncoderConfig) or config.embedding_size is None:
            return None
        return {
            "architectures": ["AlbertForMaskedLM"],
            "model_type": "albert",
            **common_options(config),
            "embedding_size": config.embedding_size,
            "num_hidden_groups": config.encoder.blocks,
            "inner_group_num": 1,
            **self.heads.options(config),
        }

    def entries(self, config: ModelConfig) -> list[Entry]:
        """Return the entries of all tensors."""
        assert isinstance(config, EncoderConfig)
        bias = config.encoder.biases
        copies = ("predictions.decoder.weight",) if config.tied and config.head == "tokens" else ()
        table = [
            same("albert.embeddings.word_embeddings.weight", "embeddings/token/table", *copies),
            same("albert.embeddings.position_embeddings.weight", "embeddings/position/table"),
            same("albert.embeddings.token_type_embeddings.weight", "embeddings/type/table"),
            *normalised("albert.embeddings.LayerNorm", "embeddings/norm", bias=True),
            *linear("albert.encoder.embedding_hidden_mapping_in", "embeddings/widen", bias=True),
        ]
        layer, ours = "albert.encoder.albert_layer_groups.{layer}.albert_layers.0", "encoder/layers"
        for theirs, own in (
            ("attention.query", "attention/query"),
            ("attention.key", "attention/key"),
            ("attention.value", "attention/value"),
            ("attention.dense", "attention/out"),
            ("ffn", "mlp/up"),
            ("ffn_output", "mlp/down"),
        ):
            table += linear(f"{layer}.{theirs}", f"{ours}/{own}", bias=bias)
        table += normalised(f"{layer}.attention.LayerNorm", f"{ours}/attention_norm", bias=True)
        table += normalised(f"{layer}.full_layer_layer_norm", f"{ours}/mlp_norm", bias=True)
        return [*table, *head(config, "predictions", "LayerNorm", "predictions"), *self.heads.entries(config)]
