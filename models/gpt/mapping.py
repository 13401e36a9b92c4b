"""Conversion of GPT-2 to and from `transformers` (GPT2LMHeadModel)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from t2t.export.family import Family, Options, Weights, activation_name
from t2t.export.mapping import Entry, Joined, Transposed, normalised, same
from t2t.models.decoder import DecoderConfig
from t2t.models.gpt.presets import gpt
from t2t.nn.model import ModelConfig


class GPT2(Family):
    """GPT-2. Its kernels have the inputs first, as in this library. Queries, keys and values are one kernel."""

    name = "GPT-2"
    model_types = ("gpt2",)
    prefix = "transformer."
    left_out: ClassVar[Mapping[str, str]] = {
        r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias": "the causal mask, stored as a tensor"
    }

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return the configuration."""
        options.free("is_decoder")
        options.must("scale_attn_by_inverse_layer_idx", False, why="attention scaled by depth is not supported")
        options.must("add_cross_attention", False, why="a model without an encoder is expected")
        embed, rate = options.size("n_embd"), options.number("resid_pdrop", 0.1)
        options.must("embd_pdrop", rate, why="the embeddings and the residual stream must have the same dropout rate")
        return gpt(
            num_layers=options.size("n_layer"),
            d_model=embed,
            num_heads=options.size("n_head"),
            d_ff=options.size("n_inner", 4 * embed),
            max_length=options.size("n_positions", 1024),
            vocab_size=options.size("vocab_size"),
            activation=options.activation("activation_function", "gelu_new"),
            dropout=rate,
            attention_dropout=options.number("attn_pdrop", 0.1),
            norm_epsilon=options.number("layer_norm_epsilon", 1e-5),
            init_std=options.number("initializer_range", 0.02),
            scaled_attention=options.flag("scale_attn_weights", True),
            tied=options.flag("tie_word_embeddings", True),
        )

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family."""
        if not isinstance(config, DecoderConfig) or config.decoder.positions == "rotary":
            return None
        stack = config.decoder
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "vocab_size": config.vocab_size,
            "n_positions": stack.max_length,
            "n_embd": stack.d_model,
            "n_layer": stack.num_layers,
            "n_head": stack.num_heads,
            "n_inner": stack.d_ff,
            "activation_function": activation_name(stack.activation),
            "resid_pdrop": config.dropout,
            "embd_pdrop": config.dropout,
            "attn_pdrop": config.attention_rate,
            "layer_norm_epsilon": stack.norm_epsilon,
            "initializer_range": stack.init_std,
            "scale_attn_weights": stack.scaled_attention,
            "tie_word_embeddings": config.tied,
        }

    def entries(self, config: ModelConfig) -> list[Entry]:
        """Return the entries of all tensors."""
        assert isinstance(config, DecoderConfig)
        table = [
            same("transformer.wte.weight", "embeddings/token/table", *(("lm_head.weight",) if config.tied else ())),
            same("transformer.wpe.weight", "embeddings/position/table"),
        ]
        layer, ours = "transformer.h.{layer}", "decoder/layers"
        parts = [f"{ours}/attention/{name}" for name in ("query", "key", "value")]
        for leaf, theirs in (("kernel", "weight"), ("bias", "bias")):
            table.append(
                Entry(f"{layer}.attn.c_attn.{theirs}", tuple(f"{part}/{leaf}" for part in parts), Joined(axis=-1))
            )
            for name, own in (
                ("attn.c_proj", "attention/out"),
                ("mlp.c_fc", "mlp/up"),
                ("mlp.c_proj", "mlp/down"),
            ):
                table.append(same(f"{layer}.{name}.{theirs}", f"{ours}/{own}/{leaf}"))
        table += normalised(f"{layer}.ln_1", f"{ours}/attention_norm", bias=True)
        table += normalised(f"{layer}.ln_2", f"{ours}/mlp_norm", bias=True)
        table += normalised("transformer.ln_f", "decoder/final_norm", bias=True)
        if not config.tied:
            table.append(Entry("lm_head.weight", ("lm_head/kernel",), Transposed()))
        return table
