"""Conversion of OLMo 2 and 3 to and from `transformers` (Olmo2ForCausalLM, Olmo3ForCausalLM)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from t2t.export.family import Options, Weights
from t2t.export.mapping import Entry
from t2t.export.patterns import in_pattern
from t2t.models.decoder import DecoderConfig
from t2t.models.gemma.mapping import GLOBAL, LOCAL, rotaries_by_kind, window_fields, window_options
from t2t.models.llama.mapping import Llama, decoder_fields, decoder_options, one_rotary
from t2t.models.olmo.presets import olmo2
from t2t.nn.model import ModelConfig
from t2t.nn.rotary import Rotary


class Olmo2(Llama):
    """OLMo 2: LLaMA with norms of outputs, and with norms of all queries and of all keys."""

    name = "OLMo 2"
    model_types = ("olmo2",)
    norms: ClassVar[Mapping[str, str]] = {
        "attention_output_norm": "post_attention_layernorm",
        "mlp_output_norm": "post_feedforward_layernorm",
    }

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return the configuration."""
        return olmo2(**_fields(options))

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family."""
        shared = _options(config)
        if shared is None:
            return None
        assert isinstance(config, DecoderConfig)
        if config.decoder.pattern or config.decoder.window is not None:
            return None
        return {"architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2", **shared}


class Olmo3(Olmo2):
    """OLMo 3: OLMo 2 with windows in some layers. Their rotary positions are plain, whatever those of the other layers are."""

    name = "OLMo 3"
    model_types = ("olmo3",)

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return the configuration."""
        theta = options.number("rope_theta", 500_000.0)
        everywhere, local = rotaries_by_kind(options, theta=theta, local_theta=theta)
        shared = _fields(options, everywhere)
        return olmo2(**shared, **window_fields(options, shared["num_layers"], every=4, window=4096, local=local))

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family."""
        shared = _options(config)
        if shared is None:
            return None
        assert isinstance(config, DecoderConfig)
        stack = config.decoder
        local = next((layer.rotary for layer in stack.pattern if layer.window and layer.rotary), stack.rotary)
        return {
            "architectures": ["Olmo3ForCausalLM"],
            "model_type": "olmo3",
            **shared,
            **window_options(stack),
            # transformers 5 reads these, and version 4 rope_theta and rope_scaling.
            "rope_parameters": {GLOBAL: one_rotary(stack.rotary), LOCAL: one_rotary(local)},
        }

    def entries(self, config: ModelConfig) -> list[Entry]:
        """Return the entries of all tensors."""
        assert isinstance(config, DecoderConfig)
        return in_pattern(super().entries(config), "decoder", config.decoder)


def _fields(options: Options, rotary: Rotary | None = None) -> dict[str, Any]:
    """Return the arguments of `olmo2`, except windows. rotary: rotary positions, if they are not to be read from the options."""
    biases = options.flag("attention_bias", False)
    return {**decoder_fields(options, rotary=rotary, norm_epsilon=1e-5), "attention_biases": biases}


def _options(config: ModelConfig) -> dict[str, Any] | None:
    """Return the options of config.json that both versions have; None if the model is not an OLMo."""
    shared = decoder_options(config)
    if shared is None:
        return None
    assert isinstance(config, DecoderConfig)
    if config.decoder.norm_place != "output":
        return None
    return {**shared, "attention_bias": config.decoder.has_attention_biases}
