"""LLaMA, SmolLM2 and Mistral between this stack and `transformers` (LlamaForCausalLM, MistralForCausalLM)."""

from __future__ import annotations

from typing import Any

from t2t.export.family import Family, Options, Weights, activation_name
from t2t.export.mapping import Entry, Transposed, linear, normalised, same
from t2t.models.decoder import DecoderConfig
from t2t.models.llama.presets import llama
from t2t.nn.model import ModelConfig
from t2t.nn.rotary import Rotary


class Llama(Family):
    """LLaMA and SmolLM2; Mistral, which has a sliding window besides."""

    name = "LLaMA"
    model_types = ("llama", "mistral")
    prefix = "model."

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return our configuration."""
        options.free("is_decoder")
        options.must("add_cross_attention", False, why="a decoder on its own is wanted")
        options.must("rope_interleaved", False, why="pairs of neighbouring coordinates do not turn together here")
        options.must("partial_rotary_factor", 1.0, why="whole heads turn here")
        mistral = options.take("model_type", "llama") == "mistral"
        return llama(
            layers=options.size("num_hidden_layers"),
            embed=options.size("hidden_size"),
            heads=options.size("num_attention_heads"),
            kv_heads=options.size("num_key_value_heads", 8 if mistral else None),
            head_dim=options.size("head_dim", None),
            mlp=options.size("intermediate_size"),
            max_length=options.size("max_position_embeddings", 2048),
            vocab_size=options.size("vocab_size"),
            activation=options.activation("hidden_act", "silu"),
            norm_epsilon=options.number("rms_norm_eps", 1e-6),
            rotary=_rotary(options),
            window=options.nullable("sliding_window", 4096) if mistral else None,
            attention_biases=options.flag("attention_bias", False),
            biases=options.flag("mlp_bias", False),
            attention_dropout=options.number("attention_dropout", 0.0),
            init_std=options.number("initializer_range", 0.02),
            tied=options.flag("tie_word_embeddings", False),
        )

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options."""
        if not isinstance(config, DecoderConfig) or config.decoder.positions != "rotary":
            return None
        stack = config.decoder
        kind: dict[str, Any] = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
        biases: dict[str, Any] = {
            "attention_bias": stack.biases if stack.attention_biases is None else stack.attention_biases,
            "mlp_bias": stack.biases,
        }
        if stack.window is not None:
            kind = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": stack.window}
            biases = {}
        return {
            **kind,
            "vocab_size": config.vocab_size,
            "hidden_size": stack.embed,
            "num_hidden_layers": stack.layers,
            "num_attention_heads": stack.heads,
            "num_key_value_heads": stack.key_heads,
            "head_dim": stack.head_size,
            "intermediate_size": stack.mlp,
            "hidden_act": activation_name(stack.activation),
            "max_position_embeddings": stack.max_length,
            "rms_norm_eps": stack.norm_epsilon,
            **_rotary_options(stack.rotary),
            **biases,
            "attention_dropout": config.attention_rate,
            "initializer_range": stack.init_std,
            "tie_word_embeddings": config.tied,
        }

    def entries(self, config: ModelConfig) -> list[Entry]:
        """Return the table."""
        assert isinstance(config, DecoderConfig)
        stack = config.decoder
        attention_bias = stack.biases if stack.attention_biases is None else stack.attention_biases
        copies = ("lm_head.weight",) if config.tied else ()
        table = [same("model.embed_tokens.weight", "embeddings/token/table", *copies)]
        layer, ours = "model.layers.{layer}", "decoder/layers"
        for letter, name in (("q", "query"), ("k", "key"), ("v", "value"), ("o", "out")):
            table += linear(f"{layer}.self_attn.{letter}_proj", f"{ours}/attention/{name}", bias=attention_bias)
        for name in ("gate", "up", "down"):
            table += linear(f"{layer}.mlp.{name}_proj", f"{ours}/mlp/{name}", bias=stack.biases)
        table += normalised(f"{layer}.input_layernorm", f"{ours}/attention_norm", bias=False)
        table += normalised(f"{layer}.post_attention_layernorm", f"{ours}/mlp_norm", bias=False)
        table += normalised("model.norm", "decoder/final_norm", bias=False)
        if not config.tied:
            table.append(Entry("lm_head.weight", ("lm_head/kernel",), Transposed()))
        return table


def _rotary(options: Options) -> Rotary:
    """Read either spelling: rope_theta and rope_scaling (transformers 4), rope_parameters (5)."""
    theta = options.number("rope_theta", 10_000.0)
    scaling = {**options.group("rope_scaling"), **options.group("rope_parameters")}
    inner = Options(scaling, where=f"{options.where}: rope_scaling")
    kind = inner.take("rope_type", inner.take("type", "default"))
    inner.must("partial_rotary_factor", 1.0, why="whole heads turn here")
    base = float(inner.number("rope_theta", theta))
    if kind == "default":
        rotary = Rotary(base=base)
    elif kind == "linear":
        rotary = Rotary(base=base, scaling="linear", factor=float(inner.number("factor")))
    elif kind == "llama3":
        rotary = Rotary(
            base=base,
            scaling="llama3",
            factor=float(inner.number("factor")),
            low=float(inner.number("low_freq_factor")),
            high=float(inner.number("high_freq_factor")),
            original_length=inner.number("original_max_position_embeddings"),
        )
    else:
        raise options.refuse("rope_scaling", kind, "there are default, linear and llama3")
    inner.finish()
    return rotary


def _rotary_options(rotary: Rotary) -> dict[str, Any]:
    scaling: dict[str, Any] | None = None
    if rotary.scaling == "linear":
        scaling = {"rope_type": "linear", "factor": rotary.factor}
    elif rotary.scaling == "llama3":
        scaling = {
            "rope_type": "llama3",
            "factor": rotary.factor,
            "low_freq_factor": rotary.low,
            "high_freq_factor": rotary.high,
            "original_max_position_embeddings": rotary.original_length,
        }
    return {"rope_theta": rotary.base, "rope_scaling": scaling}
