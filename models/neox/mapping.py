"""Conversion of GPT-NeoX and Pythia to and from `transformers` (GPTNeoXForCausalLM)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from t2t.export.family import Family, Options, Weights, activation_name
from t2t.export.mapping import Entry, Interleaved, Transposed, linear, normalised, same
from t2t.models.decoder import DecoderConfig
from t2t.models.llama.mapping import read_rotary, rotary_options
from t2t.models.neox.presets import neox
from t2t.nn.model import ModelConfig


class GPTNeoX(Family):
    """GPT-NeoX and Pythia. Queries, keys and values are one kernel, head by head."""

    name = "GPT-NeoX"
    model_types = ("gpt_neox",)
    prefix = "gpt_neox."
    left_out: ClassVar[Mapping[str, str]] = {
        r"(gpt_neox\.)?layers\.\d+\.attention\.(masked_)?bias": "the causal mask, stored as a tensor"
    }

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return the configuration."""
        # GPT-NeoX-20B has these dropout rates, which transformers does not read.
        options.free("is_decoder", "attention_probs_dropout_prob", "hidden_dropout_prob")
        theta, share = options.number("rotary_emb_base", 10_000.0), options.number("rotary_pct", 0.25)
        return neox(
            num_layers=options.size("num_hidden_layers"),
            d_model=options.size("hidden_size"),
            num_heads=options.size("num_attention_heads"),
            d_ff=options.size("intermediate_size"),
            max_length=options.size("max_position_embeddings", 2048),
            vocab_size=options.size("vocab_size"),
            activation=options.activation("hidden_act", "gelu"),
            norm_epsilon=options.number("layer_norm_eps", 1e-5),
            parallel=options.flag("use_parallel_residual", True),
            rotary=read_rotary(options, theta, share=share),
            attention_biases=options.flag("attention_bias", True),
            dropout=options.number("hidden_dropout", 0.0),
            attention_dropout=options.number("attention_dropout", 0.0),
            init_std=options.number("initializer_range", 0.02),
            tied=options.flag("tie_word_embeddings", False),
        )

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family."""
        if not isinstance(config, DecoderConfig):
            return None
        stack = config.decoder
        if stack.positions != "rotary" or stack.norm != "layer":
            return None
        return {
            "architectures": ["GPTNeoXForCausalLM"],
            "model_type": "gpt_neox",
            "vocab_size": config.vocab_size,
            "hidden_size": stack.d_model,
            "num_hidden_layers": stack.num_layers,
            "num_attention_heads": stack.num_heads,
            "intermediate_size": stack.d_ff,
            "hidden_act": activation_name(stack.activation),
            "max_position_embeddings": stack.max_length,
            "layer_norm_eps": stack.norm_epsilon,
            "use_parallel_residual": stack.parallel,
            "rotary_emb_base": stack.rotary.base,
            "rotary_pct": stack.rotary.share,
            "rope_scaling": rotary_options(stack.rotary)["rope_scaling"],
            "attention_bias": stack.has_attention_biases,
            "hidden_dropout": config.dropout,
            "attention_dropout": config.attention_rate,
            "initializer_range": stack.init_std,
            "tie_word_embeddings": config.tied,
        }

    def entries(self, config: ModelConfig) -> list[Entry]:
        """Return the entries of all tensors."""
        assert isinstance(config, DecoderConfig)
        stack = config.decoder
        heads = ("embed_out.weight", "lm_head.weight")
        table = [same("gpt_neox.embed_in.weight", "embeddings/token/table", *(heads if config.tied else ()))]
        layer, ours = "gpt_neox.layers.{layer}", "decoder/layers"
        for theirs, leaf in (("weight", "kernel"), ("bias", "bias")):
            if leaf == "kernel" or stack.has_attention_biases:
                parts = tuple(f"{ours}/attention/{name}/{leaf}" for name in ("query", "key", "value"))
                name = f"{layer}.attention.query_key_value.{theirs}"
                table.append(Entry(name, parts, Interleaved(stack.num_heads)))
        table += linear(f"{layer}.attention.dense", f"{ours}/attention/out", bias=stack.has_attention_output_bias)
        table += linear(f"{layer}.mlp.dense_h_to_4h", f"{ours}/mlp/up", bias=stack.biases)
        table += linear(f"{layer}.mlp.dense_4h_to_h", f"{ours}/mlp/down", bias=stack.biases)
        table += normalised(f"{layer}.input_layernorm", f"{ours}/attention_norm", bias=True)
        table += normalised(f"{layer}.post_attention_layernorm", f"{ours}/mlp_norm", bias=True)
        table += normalised("gpt_neox.final_layer_norm", "decoder/final_norm", bias=True)
        if not config.tied:
            # transformers 5 has the second name in memory, and reads and writes the first one.
            table.append(Entry(heads[0], ("lm_head/kernel",), Transposed(), aliases=heads[1:]))
        return table
