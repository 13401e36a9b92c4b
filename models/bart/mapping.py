"""Conversion of BART to and from `transformers` (BartForConditionalGeneration), and what other families share with it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from t2t.export.family import Family, Options, Weights, activation_name
from t2t.export.mapping import Entry, Operation, Shape, linear, normalised, same
from t2t.models.bart.presets import bart
from t2t.models.config import StackConfig
from t2t.models.encoder_decoder import EncoderDecoderConfig
from t2t.nn.model import ModelConfig

LOGITS_BIAS = "final_logits_bias"
COPIES = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
"""Other names of the table of tokens."""
SINUSOIDS = {r"(model\.)?(encoder|decoder)\.embed_positions\.weight": "fixed positions, which every version computes"}
"""What the families with sinusoidal positions leave out."""


class Bart(Family):
    """BART. Families with the same tensors are subclasses."""

    name: ClassVar[str] = "BART"
    model_types: ClassVar[tuple[str, ...]] = ("bart",)
    prefix = "model."
    left_out: ClassVar[Mapping[str, str]] = {
        r"(model\.)?(encoder|decoder)\.version": "the version of the original code's modules",
    }
    architecture: ClassVar[str] = "BartForConditionalGeneration"
    fixed: ClassVar[Mapping[str, Any]] = {
        "norm_place": "post",
        "final_norm": False,
        "embedding_norm": True,
        "positions": "learned",
    }
    """Fields of the configuration that all models of the family have in common."""

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return the configuration. It has a bias of the logits if the checkpoint has one."""
        self.check(options)
        embed = options.size("d_model")
        sides = {
            side: {
                "num_layers": options.size(f"{side}_layers"),
                "num_heads": options.size(f"{side}_attention_heads"),
                "d_ff": options.size(f"{side}_ffn_dim"),
            }
            for side in ("encoder", "decoder")
        }
        for name, known in {
            "hidden_size": embed,
            "num_hidden_layers": sides["encoder"]["num_layers"],
            "num_attention_heads": sides["encoder"]["num_heads"],
        }.items():
            options.must(name, known, why="d_model, encoder_layers and encoder_attention_heads have other values")
        dropout, inner = options.number("dropout", 0.1), options.number("activation_dropout", 0.0)
        if inner not in (0, dropout):
            raise options.refuse(
                "activation_dropout", inner, f"expected 0.0 or the value of dropout, {dropout}: there is one rate"
            )
        made = bart(
            **sides["encoder"],
            d_model=embed,
            max_length=options.size("max_position_embeddings", 1024),
            vocab_size=options.size("vocab_size"),
            activation=options.activation("activation_function", "gelu"),
            embedding_scale=math.sqrt(embed) if options.flag("scale_embedding", False) else 1.0,
            dropout=dropout,
            attention_dropout=options.number("attention_dropout", 0.0),
            mlp_dropout=inner != 0,
            init_std=options.number("init_std", 0.02),
            head_bias=LOGITS_BIAS in weights.names,
            **self.fixed,
        )
        return replace(made, decoder=replace(made.decoder, **sides["decoder"]))

    def check(self, options: Options) -> None:
        """Raise UserError if an option has a value that the family's class of `transformers` does not compute with."""
        options.free("encoder_layerdrop", "decoder_layerdrop")
        options.must("is_decoder", False, why="an encoder-decoder is expected")
        options.must("is_encoder_decoder", True, why="an encoder-decoder is expected")
        options.must("tie_word_embeddings", True, why="the logits are computed with the table of tokens")
        why = f"transformers has no such {self.name}"
        learned = self.fixed["positions"] == "learned"
        options.must("static_position_embeddings", not learned, why=why)
        if learned:
            options.must("extra_pos_embeddings", 2, why=why)
        options.free("extra_pos_embeddings")
        options.must("normalize_before", self.fixed["norm_place"] == "pre", why=why)
        options.must("normalize_embedding", self.fixed["embedding_norm"], why=why)
        options.must("add_final_layer_norm", self.fixed["final_norm"], why=why)
        options.must("add_bias_logits", False, why=why)
        options.must("do_blenderbot_90_layernorm", False, why=why)

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family."""
        if not isinstance(config, EncoderDecoderConfig):
            return None
        one, other = config.encoder, config.decoder
        if any(getattr(one, name) != self.fixed[name] for name in ("positions", "norm_place")):
            return None
        return {
            "architectures": [self.architecture],
            "model_type": self.model_types[0],
            "is_encoder_decoder": True,
            "vocab_size": config.vocab_size,
            "d_model": one.d_model,
            "encoder_layers": one.num_layers,
            "encoder_attention_heads": one.num_heads,
            "encoder_ffn_dim": one.d_ff,
            "decoder_layers": other.num_layers,
            "decoder_attention_heads": other.num_heads,
            "decoder_ffn_dim": other.d_ff,
            "max_position_embeddings": one.max_length,
            "activation_function": activation_name(one.activation),
            "scale_embedding": config.embedding_scale != 1.0,
            "dropout": config.dropout,
            "attention_dropout": config.attention_rate,
            "activation_dropout": config.dropout if one.mlp_dropout else 0.0,
            "init_std": one.init_std,
            "tie_word_embeddings": config.tied,
            # transformers would otherwise end a text that the length cuts off with its own default.
            "forced_eos_token_id": None,
        }

    def entries(self, config: ModelConfig) -> list[Entry]:
        """Return the entries of all tensors."""
        assert isinstance(config, EncoderDecoderConfig)
        if config.shared:
            raise RuntimeError(
                "its encoder and decoder have separate parameters, the model's share them (model.shared)"
            )
        table = [same("model.shared.weight", "embeddings/token/table", *COPIES)]
        if config.head_bias:
            table.append(Entry(LOGITS_BIAS, ("lm_head/bias",), Row()))
        return [*table, *self.stack("encoder", config), *self.stack("decoder", config)]

    def stack(self, side: str, config: EncoderDecoderConfig) -> list[Entry]:
        """Return the entries of the positions, norms and layers of one stack."""
        stack: StackConfig = getattr(config, side)
        before = "encoder_embeddings" if side == "encoder" and config.separate_positions else "embeddings"
        table = []
        if stack.positions == "learned":
            table.append(same(f"model.{side}.embed_positions.weight", f"{before}/position/table"))
        if config.embedding_norm:
            table += normalised(f"model.{side}.layernorm_embedding", f"{before}/norm", bias=True)
        layer, ours = f"model.{side}.layers.{{layer}}", f"{side}/layers"
        attentions = {"self_attn": "attention"} | ({"encoder_attn": "cross_attention"} if side == "decoder" else {})
        for theirs, own in attentions.items():
            for there, name in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "out")):
                table += linear(f"{layer}.{theirs}.{there}", f"{ours}/{own}/{name}", bias=stack.has_attention_biases)
            table += normalised(f"{layer}.{theirs}_layer_norm", f"{ours}/{own}_norm", bias=True)
        for there, name in (("fc1", "up"), ("fc2", "down")):
            table += linear(f"{layer}.{there}", f"{ours}/mlp/{name}", bias=stack.biases)
        table += normalised(f"{layer}.final_layer_norm", f"{ours}/mlp_norm", bias=True)
        if stack.final_norm:
            table += normalised(f"model.{side}.layer_norm", f"{side}/final_norm", bias=True)
        return table


@dataclass(frozen=True)
class Row(Operation):
    """A vector as a matrix of one row."""

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Return the row."""
        return [theirs[0]]

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Return the matrix."""
        return ours[0][None]

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        """Return the shape of the matrix."""
        return (1, *shapes[0])
