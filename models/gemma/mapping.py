"""Conversion of Gemma 2 and of the text models of Gemma 3 to and from `transformers` (Gemma2ForCausalLM, Gemma3ForCausalLM)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from t2t.export.family import Family, Options, Weights, activation_name
from t2t.export.mapping import Entry, Transposed, linear, normalised, same
from t2t.export.patterns import in_pattern, shortest_pattern
from t2t.models.config import LayerOptions, StackConfig
from t2t.models.decoder import DecoderConfig
from t2t.models.gemma.presets import gemma
from t2t.models.llama.mapping import read_rotary, rotary_options
from t2t.nn.model import ModelConfig
from t2t.nn.rotary import Rotary

LOCAL, GLOBAL = "sliding_attention", "full_attention"
"""Names of layers with and without a window in layer_types."""


class Gemma2(Family):
    """Gemma 2."""

    name = "Gemma 2"
    model_types: ClassVar[tuple[str, ...]] = ("gemma2",)
    prefix = "model."

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return the configuration."""
        shared = stack_fields(options)
        return gemma(
            **shared,
            **window_fields(options, shared["num_layers"], every=2, window=4096),
            rotary=read_rotary(options),
            vocab_size=options.size("vocab_size", 256_000),
            final_softcap=bound(options, "final_logit_softcapping", 30.0),
            attention_softcap=bound(options, "attn_logit_softcapping", 50.0),
            attention_dropout=options.number("attention_dropout", 0.0),
            tied=options.flag("tie_word_embeddings", True),
        )

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family."""
        if not isinstance(config, DecoderConfig) or config.decoder.norm != "rms_plus_one" or config.decoder.qk_norm:
            return None
        return {
            "architectures": ["Gemma2ForCausalLM"],
            "model_type": "gemma2",
            **decoder_options(config),
            **rotary_options(config.decoder.rotary),
            "attn_logit_softcapping": config.decoder.attention_softcap,
        }

    def entries(self, config: ModelConfig) -> list[Entry]:
        """Return the entries of all tensors."""
        assert isinstance(config, DecoderConfig)
        stack = config.decoder
        copies = ("lm_head.weight",) if config.tied else ()
        table = [
            same("model.embed_tokens.weight", "embeddings/token/table", *copies),
            *layer_entries(stack, "decoder", "model.", {"attention": "self_attn"}, _NORMS),
        ]
        if not config.tied:
            table.append(Entry("lm_head.weight", ("lm_head/kernel",), Transposed()))
        return table


class Gemma3(Gemma2):
    """The text models of Gemma 3, also of a checkpoint with an encoder of images (model_type "gemma3"), which is not read."""

    name = "Gemma 3"
    model_types = ("gemma3_text", "gemma3")
    left_out: ClassVar[Mapping[str, str]] = {
        r"(model\.)?(vision_tower|multi_modal_projector)\..*": "the encoder of images"
    }

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return the configuration. Its two kinds of layers have different rotary positions."""
        if options.take("model_type", "gemma3_text") == "gemma3":
            options.free(*_NOT_TEXT)
            options.must("tie_word_embeddings", True, why="the text model of Gemma 3 is tied")
            inner = Options(options.group("text_config"), where=f"{options.where}: text_config")
            config = self._text(inner)
            inner.finish()
            return config
        return self._text(options)

    def _text(self, options: Options) -> ModelConfig:
        return gemma(
            **gemma3_fields(options),
            vocab_size=options.size("vocab_size", 262_208),
            final_softcap=bound(options, "final_logit_softcapping", None),
            attention_dropout=options.number("attention_dropout", 0.0),
            tied=options.flag("tie_word_embeddings", True),
        )

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family."""
        if not isinstance(config, DecoderConfig) or not config.decoder.qk_norm:
            return None
        stack = config.decoder
        if stack.norm != "rms_plus_one":
            return None
        return {
            "architectures": ["Gemma3ForCausalLM"],
            "model_type": "gemma3_text",
            **decoder_options(config),
            **rotaries_options(stack),
        }

    def entries(self, config: ModelConfig) -> list[Entry]:
        """Return the entries of all tensors. A checkpoint with an encoder of images has another prefix, in one of two places."""

        def aliases(entry: Entry) -> tuple[str, ...]:
            known = (entry.theirs, *entry.aliases)
            inner = [name.replace("model.", "model.language_model.", 1) for name in known if name.startswith("model.")]
            return (*entry.aliases, *inner, *(f"language_model.{name}" for name in known))

        return [replace(entry, aliases=aliases(entry)) for entry in super().entries(config)]


_NOT_TEXT = (
    "vision_config",
    "mm_tokens_per_image",
    "boi_token_index",
    "eoi_token_index",
    "image_token_index",
    "initializer_range",
)
"""Options next to text_config that do not change the text model."""


def stack_fields(options: Options, *, max_length: int = 8192) -> dict[str, Any]:
    """Return the fields of a stack, except windows, rotary positions and bounds. Raises UserError if an option is not supported."""
    # Published files also have hidden_act, which transformers does not read.
    options.free("hidden_act")
    options.must("use_bidirectional_attention", False, why="a decoder does not see later tokens")
    head_dim, scalar = options.size("head_dim", 256), options.number("query_pre_attn_scalar", 256)
    if scalar <= 0:
        raise options.refuse("query_pre_attn_scalar", scalar, "expected a positive number")
    return {
        # Published files of Gemma 3 leave out what is a default of transformers.
        "num_layers": options.size("num_hidden_layers", 26),
        "d_model": options.size("hidden_size", 2304),
        "num_heads": options.size("num_attention_heads", 8),
        "num_kv_heads": options.size("num_key_value_heads", 4),
        "head_dim": head_dim,
        "d_ff": options.size("intermediate_size", 9216),
        "max_length": options.size("max_position_embeddings", max_length),
        "activation": options.activation("hidden_activation", "gelu_pytorch_tanh"),
        "norm_epsilon": options.number("rms_norm_eps", 1e-6),
        "attention_scale": None if scalar == head_dim else scalar**-0.5,
        "attention_biases": options.flag("attention_bias", False),
        "init_std": options.number("initializer_range", 0.02),
    }


def gemma3_fields(options: Options) -> dict[str, Any]:
    """Return the fields of a stack of Gemma 3. Raises UserError if an option is not supported."""
    options.must("attn_logit_softcapping", None, why="transformers does not apply it in Gemma 3")
    shared = stack_fields(options, max_length=131_072)
    everywhere, local = rotaries_by_kind(
        options,
        theta=options.number("rope_theta", 1_000_000.0),
        local_theta=options.number("rope_local_base_freq", 10_000.0),
    )
    every = options.size("_sliding_window_pattern", 6)
    every = options.size("sliding_window_pattern", every)
    windows = window_fields(options, shared["num_layers"], every=every, window=4096, local=local)
    return {**shared, **windows, "rotary": everywhere, "qk_norm": True}


def stack_options(stack: StackConfig) -> dict[str, Any]:
    """Return the options of config.json for `stack_fields` and `window_fields`."""
    scale = stack.attention_scale
    return {
        "hidden_size": stack.d_model,
        "num_hidden_layers": stack.num_layers,
        "num_attention_heads": stack.num_heads,
        "num_key_value_heads": stack.key_heads,
        "head_dim": stack.head_size,
        "query_pre_attn_scalar": stack.head_size if scale is None else round(scale**-2),
        "intermediate_size": stack.d_ff,
        "hidden_activation": activation_name(stack.activation),
        "max_position_embeddings": stack.max_length,
        "rms_norm_eps": stack.norm_epsilon,
        **window_options(stack),
        "attention_bias": stack.has_attention_biases,
        "initializer_range": stack.init_std,
    }


def window_options(stack: StackConfig) -> dict[str, Any]:
    """Return the options of config.json for `window_fields`."""
    pattern = stack.pattern or (LayerOptions(window=stack.window),)
    windows = [layer.window for layer in pattern if layer.window]
    return {
        "sliding_window": max(windows, default=4096),
        "layer_types": [LOCAL if pattern[layer % len(pattern)].window else GLOBAL for layer in range(stack.num_layers)],
    }


def decoder_options(config: DecoderConfig) -> dict[str, Any]:
    """Return the options of config.json that Gemma 2 and 3 share."""
    return {
        "vocab_size": config.vocab_size,
        **stack_options(config.decoder),
        "final_logit_softcapping": config.final_softcap,
        "attention_dropout": config.attention_rate,
        "tie_word_embeddings": config.tied,
    }


def window_fields(
    options: Options, num_layers: int, *, every: int, window: int, local: Rotary | None = None
) -> dict[str, Any]:
    """Return `window`, or the pattern of layers with and without one.

    every:  without layer_types, every layer has a window, except layers `every`, 2 * `every`, ...
    window: default of sliding_window.
    local:  rotary positions of layers with a window, if they differ.
    """
    layer_types = options.take("layer_types", None)
    if layer_types is None:
        layer_types = ([LOCAL] * (every - 1) + [GLOBAL])[:num_layers]
    elif not isinstance(layer_types, list) or len(layer_types) != num_layers:
        raise options.refuse("layer_types", layer_types, f"expected a list of {num_layers} names")
    width = None if options.nullable("sliding_window", window) is None else options.size("sliding_window", window)
    places = {LOCAL: LayerOptions(window=width, rotary=local), GLOBAL: LayerOptions()}
    if unknown := [name for name in layer_types if name not in places]:
        raise options.refuse("layer_types", unknown[0], f"supported are {LOCAL} and {GLOBAL}")
    return {"pattern": tuple(places[name] for name in shortest_pattern(layer_types))}


def bound(options: Options, name: str, default: float | None) -> float | None:
    """Return a soft bound of logits. If the option is null, there is none."""
    value = options.nullable(name, default)
    return None if value is None else float(options.number(name))


_NORMS = {
    "attention_norm": "input_layernorm",
    "attention_output_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_output_norm": "post_feedforward_layernorm",
}


def layer_entries(
    stack: StackConfig, side: str, prefix: str, attentions: dict[str, str], norms: dict[str, str]
) -> Sequence[Entry]:
    """Return the entries of a stack.

    prefix:     prefix of their names ("model.").
    attentions: our name of an attention -> theirs.
    norms:      our name of a norm -> theirs.
    """
    layer, ours = f"{prefix}layers.{{layer}}", f"{side}/layers"
    table: list[Entry] = []
    for own, theirs in attentions.items():
        for letter, name in (("q", "query"), ("k", "key"), ("v", "value"), ("o", "out")):
            table += linear(f"{layer}.{theirs}.{letter}_proj", f"{ours}/{own}/{name}", bias=stack.has_attention_biases)
    if stack.qk_norm:
        for letter, name in (("q", "query"), ("k", "key")):
            table += normalised(f"{layer}.self_attn.{letter}_norm", f"{ours}/attention/{name}_norm", bias=False)
    for name in ("gate", "up", "down"):
        table += linear(f"{layer}.mlp.{name}_proj", f"{ours}/mlp/{name}", bias=stack.biases)
    for own, theirs in norms.items():
        table += normalised(f"{layer}.{theirs}", f"{ours}/{own}", bias=False)
    table += normalised(f"{prefix}norm", f"{side}/final_norm", bias=False)
    return in_pattern(table, side, stack)


def rotaries_options(stack: StackConfig) -> dict[str, Any]:
    """Return the options of config.json for `rotaries_by_kind`."""
    local = next((layer.rotary for layer in stack.pattern if layer.window and layer.rotary), Rotary())
    return {**rotary_options(stack.rotary), "rope_local_base_freq": local.base}


def rotaries_by_kind(options: Options, *, theta: float, local_theta: float) -> tuple[Rotary, Rotary]:
    """Return the rotary positions of layers without and with a window.

    transformers 4 has rope_scaling, which only the layers without a window use. transformers 5 has rope_parameters for each of layer_types.

    theta, local_theta: base of either, where rope_parameters do not have it.
    """
    by_kind = options.group("rope_parameters")
    if unknown := [name for name in by_kind if name not in (LOCAL, GLOBAL)]:
        raise options.refuse("rope_parameters", unknown[0], f"expected {LOCAL} and {GLOBAL}")
    longest = options.size("max_position_embeddings", 131_072)

    def read(kind: str, theta: float, scaling: dict[str, Any]) -> Rotary:
        values = {"rope_theta": theta, "rope_scaling": {**scaling, **(by_kind.get(kind) or {})}}
        return read_rotary(Options({**values, "max_position_embeddings": longest}, where=options.where))

    scaling = options.group("rope_scaling")
    return (
        read(GLOBAL, theta, scaling),
        read(LOCAL, local_theta, {}),
    )
