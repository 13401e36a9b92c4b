"""Conversion of Qwen 2, 2.5 and 3 to and from `transformers` (Qwen2ForCausalLM, Qwen3ForCausalLM)."""

from __future__ import annotations

from typing import Any, ClassVar

from t2t.export.family import Options, Weights
from t2t.models.decoder import DecoderConfig
from t2t.models.llama.mapping import Llama, decoder_fields, decoder_options
from t2t.models.llama.presets import llama
from t2t.nn.model import ModelConfig


class Qwen2(Llama):
    """Qwen 2 and 2.5: LLaMA with biases on queries, keys and values."""

    name = "Qwen2"
    model_types = ("qwen2",)
    architecture: ClassVar[str] = "Qwen2ForCausalLM"

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return the configuration."""
        options.must("use_mrope", False, why="positions in several dimensions are not supported")
        fields = decoder_fields(options, num_kv_heads=32)
        return llama(
            **fields,
            window=_window(options, fields["num_layers"]),
            attention_biases=True,
            attention_output_bias=False,
        )

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family."""
        shared = decoder_options(config)
        if shared is None:
            return None
        assert isinstance(config, DecoderConfig)
        if config.decoder.qk_norm or config.decoder.has_attention_output_bias:
            return None
        return self._options(shared, config)

    def _options(self, shared: dict[str, Any], config: DecoderConfig) -> dict[str, Any]:
        window = config.decoder.window
        kind = {"architectures": [self.architecture], "model_type": self.model_types[0]}
        # All layers from `max_window_layers` on have the window.
        windows = {"use_sliding_window": window is not None, "sliding_window": window, "max_window_layers": 0}
        return {**kind, **shared, **windows}


class Qwen3(Qwen2):
    """Qwen 3: LLaMA with a norm of each head's queries and keys."""

    name = "Qwen3"
    model_types = ("qwen3",)
    architecture = "Qwen3ForCausalLM"

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return the configuration."""
        fields = decoder_fields(options, num_kv_heads=32, head_dim=128)
        return llama(
            **fields,
            window=_window(options, fields["num_layers"]),
            attention_biases=options.flag("attention_bias", False),
            qk_norm=True,
        )

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family."""
        shared = decoder_options(config)
        if shared is None:
            return None
        assert isinstance(config, DecoderConfig)
        if not config.decoder.qk_norm:
            return None
        return {**self._options(shared, config), "attention_bias": config.decoder.has_attention_biases}


def _window(options: Options, num_layers: int) -> int | None:
    """Return the sliding window of all layers. The published models have the options of a window and do not use it.

    Raises UserError if only some of the layers have a window.
    """
    used = options.flag("use_sliding_window", False)
    size = options.nullable("sliding_window", 4096)
    size = None if size is None else options.size("sliding_window", 4096)
    first = options.size("max_window_layers", 28, least=0)
    kinds = options.take("layer_types", None)
    why = "a window in only some of the layers is not supported"
    if kinds is None:
        windowed = used and size is not None and first < num_layers
        if windowed and first > 0:
            raise options.refuse("max_window_layers", first, why)
        return size if windowed else None
    if not isinstance(kinds, list) or len(kinds) != num_layers:
        raise options.refuse("layer_types", kinds, f"expected a list of {num_layers} layers")
    if set(kinds) == {"full_attention"}:
        return None
    if set(kinds) != {"sliding_attention"}:
        raise options.refuse("layer_types", kinds, why)
    if not used or size is None:
        raise options.refuse("layer_types", kinds, "use_sliding_window and sliding_window give no window")
    return size
