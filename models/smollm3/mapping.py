"""Conversion of SmolLM3 to and from `transformers` (SmolLM3ForCausalLM)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from t2t.export.family import Options, Weights
from t2t.export.mapping import Entry
from t2t.export.patterns import in_pattern, shortest_pattern
from t2t.models.config import LayerOptions
from t2t.models.decoder import DecoderConfig
from t2t.models.llama.mapping import Llama, decoder_fields, decoder_options
from t2t.models.llama.presets import llama
from t2t.models.smollm3.presets import NO_POSITIONS, POSITIONS
from t2t.nn.model import ModelConfig


class SmolLM3(Llama):
    """SmolLM3: LLaMA with some layers that have no positions."""

    name = "SmolLM3"
    model_types = ("smollm3",)

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return the configuration."""
        options.must("use_sliding_window", False, why="a window in only some of the layers is not supported")
        options.free("sliding_window", "max_window_layers")
        plain = llama(
            **decoder_fields(options, num_kv_heads=4, base=2_000_000.0, tied=True),
            attention_biases=options.flag("attention_bias", False),
            biases=options.flag("mlp_bias", False),
        )
        num_layers = plain.decoder.num_layers
        kinds = options.take("layer_types", None)
        if kinds is not None and kinds != ["full_attention"] * num_layers:
            raise options.refuse("layer_types", kinds, f"expected 'full_attention' for each of {num_layers} layers")
        return replace(plain, decoder=replace(plain.decoder, pattern=_pattern(options, num_layers)))

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family."""
        shared = decoder_options(config)
        if shared is None:
            return None
        assert isinstance(config, DecoderConfig)
        stack = config.decoder
        if not stack.pattern or any(place not in (POSITIONS, NO_POSITIONS) for place in stack.pattern):
            return None
        layers = [stack.pattern[layer % len(stack.pattern)] for layer in range(stack.num_layers)]
        return {
            "architectures": ["SmolLM3ForCausalLM"],
            "model_type": "smollm3",
            **shared,
            "no_rope_layers": [int(layer == POSITIONS) for layer in layers],
            "attention_bias": stack.has_attention_biases,
            "mlp_bias": stack.biases,
        }

    def entries(self, config: ModelConfig) -> list[Entry]:
        """Return the entries of all tensors."""
        assert isinstance(config, DecoderConfig)
        return in_pattern(super().entries(config), "decoder", config.decoder)


def _pattern(options: Options, num_layers: int) -> tuple[LayerOptions, ...]:
    """Return the pattern of layers with and without positions; () if all layers have them.

    `no_rope_layers` has a 1 for each layer with positions. Without it, every `no_rope_layer_interval`-th layer has none.
    """
    interval = options.size("no_rope_layer_interval", 4)
    rotated = options.take("no_rope_layers", None)
    if rotated is None:
        rotated = [int((layer + 1) % interval != 0) for layer in range(num_layers)]
    if not isinstance(rotated, list) or len(rotated) < num_layers or any(one not in (0, 1) for one in rotated):
        raise options.refuse("no_rope_layers", rotated, f"expected a list of {num_layers} numbers, each 0 or 1")
    pattern = shortest_pattern([POSITIONS if one else NO_POSITIONS for one in rotated[:num_layers]])
    return () if set(pattern) == {POSITIONS} else pattern
