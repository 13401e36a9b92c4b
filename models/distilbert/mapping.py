"""Conversion of DistilBERT to and from `transformers` (DistilBertForMaskedLM)."""

from __future__ import annotations

from typing import Any

from t2t.export.family import Family, Options, Weights, activation_name
from t2t.export.mapping import Entry, Transposed, linear, normalised, same
from t2t.models.bert.heads import Heads
from t2t.models.bert.presets import bert
from t2t.models.encoder import EncoderConfig
from t2t.nn.model import ModelConfig


class DistilBert(Family):
    """DistilBERT."""

    name = "DistilBERT"
    model_types = ("distilbert",)
    prefix = "distilbert."
    heads = Heads(model="DistilBert", pooler="pre_classifier", activation="relu")

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return the configuration."""
        options.must("is_decoder", False, why="an encoder is expected")
        options.must("add_cross_attention", False, why="an encoder is expected")
        masked_lm = "vocab_transform.weight" in weights.names
        return bert(
            num_layers=options.size("n_layers", 6),
            d_model=options.size("dim", 768),
            num_heads=options.size("n_heads", 12),
            d_ff=options.size("hidden_dim", 3072),
            max_length=options.size("max_position_embeddings", 512),
            vocab_size=options.size("vocab_size", 30522),
            activation=options.activation("activation", "gelu"),
            dropout=options.number("dropout", 0.1),
            attention_dropout=options.number("attention_dropout", 0.1),
            init_std=options.number("initializer_range", 0.02),
            norm_epsilon=1e-12,
            types=0,
            **self.heads.read(options, weights, masked_lm=masked_lm),
        )

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family."""
        if not isinstance(config, EncoderConfig) or config.types:
            return None
        stack = config.encoder
        return {
            "architectures": ["DistilBertForMaskedLM" if config.head_transform else "DistilBertModel"],
            "model_type": "distilbert",
            "vocab_size": config.vocab_size,
            "dim": stack.d_model,
            "n_layers": stack.num_layers,
            "n_heads": stack.num_heads,
            "hidden_dim": stack.d_ff,
            "activation": activation_name(stack.activation),
            "dropout": config.dropout,
            "attention_dropout": config.attention_rate,
            "max_position_embeddings": stack.max_length,
            "initializer_range": stack.init_std,
            "tie_word_embeddings": config.tied,
            **self.heads.options(config),
        }

    def entries(self, config: ModelConfig) -> list[Entry]:
        """Return the entries of all tensors."""
        assert isinstance(config, EncoderConfig)
        bias = config.encoder.biases
        words = config.head_transform and config.head == "tokens"
        copies = ("vocab_projector.weight",) if config.tied and words else ()
        table = [
            same("distilbert.embeddings.word_embeddings.weight", "embeddings/token/table", *copies),
            same("distilbert.embeddings.position_embeddings.weight", "embeddings/position/table"),
            *normalised("distilbert.embeddings.LayerNorm", "embeddings/norm", bias=True),
        ]
        layer, ours = "distilbert.transformer.layer.{layer}", "encoder/layers"
        for theirs, own in (
            ("attention.q_lin", "attention/query"),
            ("attention.k_lin", "attention/key"),
            ("attention.v_lin", "attention/value"),
            ("attention.out_lin", "attention/out"),
            ("ffn.lin1", "mlp/up"),
            ("ffn.lin2", "mlp/down"),
        ):
            table += linear(f"{layer}.{theirs}", f"{ours}/{own}", bias=bias)
        table += normalised(f"{layer}.sa_layer_norm", f"{ours}/attention_norm", bias=True)
        table += normalised(f"{layer}.output_layer_norm", f"{ours}/mlp_norm", bias=True)
        table += self.heads.entries(config)
        if words:
            table += linear("vocab_transform", "transform/dense", bias=True)
            table += normalised("vocab_layer_norm", "transform/norm", bias=True)
            table.append(same("vocab_projector.bias", "lm_head/bias"))
            if not config.tied:
                table.append(Entry("vocab_projector.weight", ("lm_head/kernel",), Transposed()))
        return table
