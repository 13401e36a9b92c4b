"""Conversion of Qwen 2, 2.5 and 3 to and from `transformers` (Qwen2ForCausalLM, Qwen3ForCausalLM, Qwen3MoeForCausalLM)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from t2t.export.family import Options, Weights
from t2t.export.mapping import Entry
from t2t.export.patterns import in_pattern, shortest_pattern
from t2t.models.config import LayerOptions, StackConfig
from t2t.models.decoder import DecoderConfig
from t2t.models.llama.mapping import NORMS, Llama, decoder_fields, decoder_options, separate_products
from t2t.models.llama.presets import llama
from t2t.models.mixtral.mapping import expert_entries, in_layer
from t2t.models.qwen.presets import qwen3_moe
from t2t.nn.model import ModelConfig
from t2t.nn.moe.router import Router

DENSE = LayerOptions(num_experts=0)
"""Options of a layer without experts in a stack with experts."""


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


class Qwen3MoE(Qwen3):
    """Qwen 3 with experts in all or some of the layers."""

    name = "Qwen3 MoE"
    model_types = ("qwen3_moe",)
    architecture = "Qwen3MoeForCausalLM"
    norms: ClassVar[Mapping[str, str]] = {**NORMS, "moe_norm": NORMS["mlp_norm"]}

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return the configuration."""
        options.free("output_router_logits", "max_window_layers")
        fields = decoder_fields(options, num_kv_heads=4, max_length=32_768)
        windowed, window = options.flag("use_sliding_window", False), options.nullable("sliding_window", 4096)
        experts = options.size("num_experts", options.size("num_local_experts", 128))
        return qwen3_moe(
            **fields,
            window=window if windowed else None,
            attention_biases=options.flag("attention_bias", False),
            num_experts=experts,
            experts_per_token=options.size("num_experts_per_tok", 8),
            expert_d_ff=options.size("moe_intermediate_size", 768),
            router=Router(
                normalized=options.flag("norm_topk_prob", False),
                balance_loss=float(options.number("router_aux_loss_coef", 0.001)),
            ),
            pattern=_expert_pattern(options, fields["num_layers"]),
        )

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family."""
        shared = super().options(config)
        if shared is None:
            return None
        assert isinstance(config, DecoderConfig)
        stack = config.decoder
        if not stack.num_experts or any(place not in (LayerOptions(), DENSE) for place in stack.places):
            return None
        layers = [stack.places[layer % len(stack.places)] for layer in range(stack.num_layers)]
        return {
            **shared,
            "num_experts": stack.num_experts,
            "num_experts_per_tok": stack.experts_per_token,
            "moe_intermediate_size": stack.expert_size,
            "norm_topk_prob": stack.router.normalized,
            "router_aux_loss_coef": stack.router.balance_loss,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [number for number, place in enumerate(layers) if place == DENSE],
        }

    def products(self, layer: str, ours: str, stack: StackConfig) -> list[Entry]:
        """Return the entries of the matrix products of a layer, with and without experts."""
        names = {name: f"{name}_proj" for name in ("gate", "up", "down")}
        return [*separate_products(layer, ours, stack), *expert_entries(f"{layer}.mlp", f"{ours}/moe", names)]

    def entries(self, config: ModelConfig) -> list[Entry]:
        """Return the entries of all tensors."""
        assert isinstance(config, DecoderConfig)
        return in_pattern(super().entries(config), "decoder", config.decoder, has=in_layer)


def _expert_pattern(options: Options, num_layers: int) -> tuple[LayerOptions, ...]:
    """Return the pattern of layers with and without experts; () if all have them."""
    pattern = shortest_pattern([DENSE if one else LayerOptions() for one in dense_layers(options, num_layers)])
    return () if len(pattern) == 1 else pattern


def dense_layers(options: Options, num_layers: int) -> list[bool]:
    """Return which layers have no experts. Every `decoder_sparse_step`-th layer has them, unless it is listed in `mlp_only_layers`.

    Raises UserError if no layer has experts.
    """
    step, without = options.size("decoder_sparse_step", 1), options.take("mlp_only_layers", [])
    if not isinstance(without, list) or not all(isinstance(one, int) for one in without):
        raise options.refuse("mlp_only_layers", without, "expected a list of numbers of layers")
    dense = [layer in without or (layer + 1) % step != 0 for layer in range(num_layers)]
    if all(dense):
        raise options.refuse("decoder_sparse_step", step, "no layer has experts; without them, the model is a qwen3")
    return dense


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
