"""Conversion of T5Gemma to and from `transformers` (T5GemmaForConditionalGeneration)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from t2t.export.family import Family, Options, Weights
from t2t.export.mapping import Entry, Transposed, same
from t2t.models.config import LayerOptions, StackConfig
from t2t.models.encoder_decoder import EncoderDecoderConfig
from t2t.models.gemma.mapping import bound, layer_entries, stack_fields, stack_options, window_fields
from t2t.models.llama.mapping import read_rotary, rotary_options
from t2t.models.t5gemma.presets import t5gemma
from t2t.nn.model import ModelConfig

NORMS = {
    "attention_norm": "pre_self_attn_layernorm",
    "attention_output_norm": "post_self_attn_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_output_norm": "post_feedforward_layernorm",
}
_CROSS_NORMS = {
    "cross_attention_norm": "pre_cross_attn_layernorm",
    "cross_attention_output_norm": "post_cross_attn_layernorm",
}


class T5Gemma(Family):
    """T5Gemma. Its config.json has an object of options for each stack."""

    name = "T5Gemma"
    model_types = ("t5gemma",)
    prefix = "model."

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return the configuration."""
        options.free("classifier_dropout_rate", "initializer_range")
        options.must("is_encoder_decoder", True, why="an encoder alone is not supported")
        stacks = {name: inner(options, name) for name in ("encoder", "decoder")}
        vocab_size = stacks["decoder"].size("vocab_size", 256_000)
        for own in (options, stacks["encoder"]):
            own.must("vocab_size", vocab_size, why="encoder and decoder must have the same vocabulary")
        stacks["encoder"].free("final_logit_softcapping")
        fields = {name: _fields(own) for name, own in stacks.items()}
        fields["encoder"]["pattern"] = _windows(fields["encoder"]["pattern"], lambda window: 2 * window)
        width = fields["encoder"]["d_model"]
        stacks["decoder"].must("cross_attention_hidden_size", width, why="it must be the width of the encoder")
        config = t5gemma(
            encoder=fields["encoder"],
            decoder=fields["decoder"],
            vocab_size=vocab_size,
            final_softcap=bound(stacks["decoder"], "final_logit_softcapping", 30.0),
            dropout=options.number("dropout_rate", 0.0),
            attention_dropout=options.number("attention_dropout", 0.0),
            tied=options.flag("tie_word_embeddings", True),
        )
        for own in stacks.values():
            own.finish()
        return config

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family."""
        if not isinstance(config, EncoderDecoderConfig) or config.decoder.norm != "rms_plus_one":
            return None
        if config.merged_attention:
            return None
        halved = replace(config.encoder, pattern=_windows(_places(config.encoder), lambda window: max(window // 2, 1)))
        return {
            "architectures": ["T5GemmaForConditionalGeneration"],
            "model_type": "t5gemma",
            "is_encoder_decoder": True,
            "vocab_size": config.vocab_size,
            "encoder": _options(config, halved),
            "decoder": {
                **_options(config, config.decoder),
                "is_decoder": True,
                "cross_attention_hidden_size": config.encoder.d_model,
            },
            "dropout_rate": config.dropout,
            "attention_dropout": config.attention_rate,
            "tie_word_embeddings": config.tied,
        }

    def entries(self, config: ModelConfig) -> list[Entry]:
        """Return the entries of all tensors."""
        assert isinstance(config, EncoderDecoderConfig)
        head = "lm_head.out_proj.weight"
        both, cross = {"attention": "self_attn"}, {"cross_attention": "cross_attn"}
        table = [
            same("model.encoder.embed_tokens.weight", "encoder_embeddings/token/table"),
            same("model.decoder.embed_tokens.weight", "embeddings/token/table", *((head,) if config.tied else ())),
            *layer_entries(config.encoder, "encoder", "model.encoder.", both, NORMS),
            *layer_entries(config.decoder, "decoder", "model.decoder.", both | cross, NORMS | _CROSS_NORMS),
        ]
        if not config.tied:
            table.append(Entry(head, ("lm_head/kernel",), Transposed()))
        return table


def inner(options: Options, name: str) -> Options:
    """Return the options of a stack. What the whole model says too is not read from them."""
    own = Options(options.group(name), where=f"{options.where}: {name}")
    own.free("is_decoder", "dropout_rate", "attention_dropout", "classifier_dropout_rate", "tie_word_embeddings")
    own.must("add_cross_attention", False, why="the family itself says which stack has cross attention")
    return own


def _fields(options: Options) -> dict[str, Any]:
    """Return the fields of a stack."""
    shared = stack_fields(options)
    return {
        **shared,
        **window_fields(options, shared["num_layers"], every=2, window=4096),
        "rotary": read_rotary(options),
        "attention_softcap": bound(options, "attn_logit_softcapping", 50.0),
    }


def _options(config: EncoderDecoderConfig, stack: StackConfig) -> dict[str, Any]:
    """Return the options of config.json for `_fields`."""
    return {
        "model_type": "t5_gemma_module",
        "vocab_size": config.vocab_size,
        **stack_options(stack),
        **rotary_options(stack.rotary),
        "attn_logit_softcapping": stack.attention_softcap,
        "final_logit_softcapping": config.final_softcap,
        "dropout_rate": config.dropout,
        "attention_dropout": config.attention_rate,
    }


def _places(stack: StackConfig) -> tuple[LayerOptions, ...]:
    return stack.pattern or (LayerOptions(window=stack.window),)


def _windows(pattern: tuple[LayerOptions, ...], change: Callable[[int], int]) -> tuple[LayerOptions, ...]:
    """Return the pattern with other windows: here the size is that of both sides, in config.json that of one."""
    return tuple(replace(place, window=change(place.window)) if place.window else place for place in pattern)
