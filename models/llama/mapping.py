"""Conversion of LLaMA, SmolLM2 and Mistral to and from `transformers` (LlamaForCausalLM, MistralForCausalLM)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from t2t.errors import nearest
from t2t.export.family import Family, Options, Weights, activation_name
from t2t.export.mapping import Entry, Transposed, linear, normalised, same
from t2t.models.config import StackConfig
from t2t.models.decoder import DecoderConfig
from t2t.models.llama.presets import llama
from t2t.models.transformer_config import TransformerConfig
from t2t.nn.model import ModelConfig
from t2t.nn.rotary import Rotary

NORMS = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
"""Our names of the norms of a layer -> theirs."""


class Llama(Family):
    """LLaMA, SmolLM2, and Mistral, which adds a sliding window."""

    name = "LLaMA"
    model_types: ClassVar[tuple[str, ...]] = ("llama", "mistral")
    prefix = "model."
    norms: ClassVar[Mapping[str, str]] = NORMS
    """Our names of the norms of a layer -> theirs."""

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return the configuration."""
        options.must("rope_interleaved", False, why="rotary positions of adjacent coordinates are not supported")
        options.must("partial_rotary_factor", 1.0, why="partial rotary positions are not supported")
        mistral = options.take("model_type", "llama") == "mistral"
        return llama(
            **decoder_fields(options, num_kv_heads=8 if mistral else None),
            window=options.nullable("sliding_window", 4096) if mistral else None,
            attention_biases=options.flag("attention_bias", False),
            biases=options.flag("mlp_bias", False),
        )

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family."""
        shared = decoder_options(config)
        if shared is None:
            return None
        assert isinstance(config, DecoderConfig)
        stack = config.decoder
        kind: dict[str, Any] = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
        biases: dict[str, Any] = {
            "attention_bias": stack.has_attention_biases,
            "mlp_bias": stack.biases,
        }
        if stack.window is not None:
            kind = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": stack.window}
            biases = {}
        return {**kind, **shared, **biases}

    def entries(self, config: ModelConfig) -> list[Entry]:
        """Return the entries of all tensors."""
        assert isinstance(config, DecoderConfig)
        copies = ("lm_head.weight",) if config.tied else ()
        table = [
            same("model.embed_tokens.weight", "embeddings/token/table", *copies),
            *stack_entries(config.decoder, "decoder", norms=self.norms, products=self.products),
        ]
        if not config.tied:
            table.append(Entry("lm_head.weight", ("lm_head/kernel",), Transposed()))
        return table

    def products(self, layer: str, ours: str, stack: StackConfig) -> list[Entry]:
        """Return the entries of the matrix products of a layer. layer, ours: prefix of their names and of ours."""
        return separate_products(layer, ours, stack)


def separate_products(layer: str, ours: str, stack: StackConfig) -> list[Entry]:
    """Return the entries of the matrix products of a layer. layer, ours: prefix of their names and of ours."""
    table = attention_products(layer, ours, stack)
    for name in ("gate", "up", "down"):
        table += linear(f"{layer}.mlp.{name}_proj", f"{ours}/mlp/{name}", bias=stack.biases)
    return table


def attention_products(layer: str, ours: str, stack: StackConfig) -> list[Entry]:
    """Return the entries of the matrix products of attention. layer, ours: prefix of their names and of ours."""
    table: list[Entry] = []
    for letter, name in (("q", "query"), ("k", "key"), ("v", "value")):
        table += linear(f"{layer}.self_attn.{letter}_proj", f"{ours}/attention/{name}", bias=stack.has_attention_biases)
    return [
        *table,
        *linear(f"{layer}.self_attn.o_proj", f"{ours}/attention/out", bias=stack.has_attention_output_bias),
    ]


def stack_entries(
    stack: StackConfig,
    side: str,
    *,
    norms: Mapping[str, str] = NORMS,
    products: Callable[[str, str, StackConfig], list[Entry]] = separate_products,
) -> list[Entry]:
    """Return the entries of the layers and of the last norm.

    side:     name of the stack, "encoder" or "decoder".
    norms:    our name of a norm of a layer -> theirs.
    products: see `separate_products`.
    """
    layer, ours = "model.layers.{layer}", f"{side}/layers"
    table = products(layer, ours, stack)
    if stack.qk_norm:
        for letter, name in (("q", "query"), ("k", "key")):
            table += normalised(f"{layer}.self_attn.{letter}_norm", f"{ours}/attention/{name}_norm", bias=False)
    for own, theirs in norms.items():
        table += normalised(f"{layer}.{theirs}", f"{ours}/{own}", bias=False)
    return [*table, *normalised("model.norm", f"{side}/final_norm", bias=False)]


def decoder_fields(
    options: Options,
    *,
    num_kv_heads: int | None = None,
    head_dim: int | None = None,
    base: float = 10_000.0,
    tied: bool = False,
    rotary: Rotary | None = None,
    max_length: int = 2048,
    norm_epsilon: float = 1e-6,
) -> dict[str, Any]:
    """Return the arguments of `llama` that the options of LLaMA and of the families like it have in common.

    num_kv_heads, head_dim, base, tied, max_length, norm_epsilon: values that `transformers` uses if config.json does not have them.
    rotary: rotary positions, if they are not to be read from the options.
    """
    options.free("is_decoder")
    options.must("add_cross_attention", False, why="a model without an encoder is expected")
    return {
        "num_layers": options.size("num_hidden_layers"),
        "d_model": options.size("hidden_size"),
        "num_heads": options.size("num_attention_heads"),
        "num_kv_heads": options.size("num_key_value_heads", num_kv_heads),
        "head_dim": options.size("head_dim", head_dim),
        "d_ff": options.size("intermediate_size"),
        "max_length": options.size("max_position_embeddings", max_length),
        "vocab_size": options.size("vocab_size"),
        "activation": options.activation("hidden_act", "silu"),
        "norm_epsilon": options.number("rms_norm_eps", norm_epsilon),
        "rotary": read_rotary(options, base, max_length) if rotary is None else rotary,
        "attention_dropout": options.number("attention_dropout", 0.0),
        "init_std": options.number("initializer_range", 0.02),
        "tied": options.flag("tie_word_embeddings", tied),
    }


def decoder_options(config: ModelConfig) -> dict[str, Any] | None:
    """Return the options of config.json that LLaMA and the families like it have in common; None if the model is not a decoder with rotary positions."""
    if not isinstance(config, DecoderConfig) or config.decoder.positions != "rotary":
        return None
    return stack_options(config, config.decoder)


def stack_options(config: TransformerConfig, stack: StackConfig) -> dict[str, Any]:
    """Return the options of config.json for a stack of LLaMA's layers."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": stack.d_model,
        "num_hidden_layers": stack.num_layers,
        "num_attention_heads": stack.num_heads,
        "num_key_value_heads": stack.key_heads,
        "head_dim": stack.head_size,
        "intermediate_size": stack.d_ff,
        "hidden_act": activation_name(stack.activation),
        "max_position_embeddings": stack.max_length,
        "rms_norm_eps": stack.norm_epsilon,
        **rotary_options(stack.rotary),
        "attention_dropout": config.attention_rate,
        "initializer_range": stack.init_std,
        "tie_word_embeddings": config.tied,
    }


def read_rotary(
    options: Options, base: float = 10_000.0, max_length: int = 2048, *, share: float | None = None
) -> Rotary:
    """Read both spellings: rope_theta and rope_scaling (transformers 4), and rope_parameters (transformers 5).

    base, max_length: rope_theta and max_position_embeddings if config.json does not have them.
    share: partial_rotary_factor if rope_parameters do not have it. None means that the family has no partial rotary positions.
    """
    theta = options.number("rope_theta", base)
    scaling = {**options.group("rope_scaling"), **options.group("rope_parameters")}
    inner = Options(scaling, where=f"{options.where}: rope_scaling")
    kind = inner.take("rope_type", inner.take("type", "default"))
    longest = options.size("max_position_embeddings", max_length)
    fields: dict[str, Any] = {"base": float(inner.number("rope_theta", theta))}
    if share is None:
        inner.must("partial_rotary_factor", 1.0, why="partial rotary positions are not supported")
    else:
        fields["share"] = float(inner.number("partial_rotary_factor", share))
    if kind in ("linear", "dynamic", "llama3", "yarn"):
        fields["factor"] = float(inner.number("factor"))
    if kind == "dynamic":
        fields["original_length"] = longest
    elif kind == "llama3":
        fields["original_length"] = inner.size("original_max_position_embeddings")
        fields["low"], fields["high"] = (float(inner.number(f"{end}_freq_factor")) for end in ("low", "high"))
    elif kind == "yarn":
        fields["original_length"] = inner.size("original_max_position_embeddings", longest)
        fields["beta_fast"] = float(inner.number("beta_fast", 32.0))
        fields["beta_slow"] = float(inner.number("beta_slow", 1.0))
        fields["truncate"] = inner.flag("truncate", True)
        for name in ("mscale", "mscale_all_dim"):
            fields[name] = float(inner.number(name, 0.0))
    elif kind == "longrope":
        fields["original_length"] = original = inner.size("original_max_position_embeddings", longest)
        fields["factor"] = max(float(inner.number("factor", longest / original)), 1.0)
        for name in ("long_factor", "short_factor"):
            values = inner.take(name)
            if not isinstance(values, list) or not all(isinstance(one, int | float) for one in values):
                raise inner.refuse(name, values, "expected a list of numbers")
            fields[f"{name}s"] = tuple(map(float, values))
    elif kind not in ("default", "linear"):
        known = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
        raise options.refuse("rope_scaling", kind, f"supported are {', '.join(known)}.{nearest(str(kind), known)}")
    if kind in ("yarn", "longrope") and (attention_factor := inner.number("attention_factor", None)) is not None:
        fields["attention_factor"] = float(attention_factor)
    inner.finish()
    return Rotary(scaling="none" if kind == "default" else kind, **fields)


def one_rotary(rotary: Rotary) -> dict[str, Any]:
    """Return rope_parameters as transformers 5 has them: the base and the scaling in one object."""
    written = rotary_options(rotary)
    return {"rope_theta": written["rope_theta"], **(written["rope_scaling"] or {"rope_type": "default"})}


def rotary_options(rotary: Rotary) -> dict[str, Any]:
    """Return rope_theta and rope_scaling, which every version of transformers reads."""
    scaling: dict[str, Any] = {"rope_type": rotary.scaling}
    if rotary.scaling in ("linear", "dynamic", "llama3", "yarn", "longrope"):
        scaling["factor"] = rotary.factor
    if rotary.scaling in ("llama3", "yarn", "longrope"):
        scaling["original_max_position_embeddings"] = rotary.original_length
    if rotary.scaling == "llama3":
        scaling |= {"low_freq_factor": rotary.low, "high_freq_factor": rotary.high}
    elif rotary.scaling == "yarn":
        scaling |= {"beta_fast": rotary.beta_fast, "beta_slow": rotary.beta_slow, "truncate": rotary.truncate}
        scaling |= {name: value for name in ("mscale", "mscale_all_dim") if (value := getattr(rotary, name))}
    elif rotary.scaling == "longrope":
        scaling |= {"long_factor": list(rotary.long_factors), "short_factor": list(rotary.short_factors)}
    if rotary.attention_factor is not None:
        scaling["attention_factor"] = rotary.attention_factor
    return {"rope_theta": rotary.base, "rope_scaling": None if rotary.scaling == "none" else scaling}
