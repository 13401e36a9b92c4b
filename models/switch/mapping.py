"""Conversion of Switch Transformers to and from `transformers` (SwitchTransformersForConditionalGeneration)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from t2t.export.family import Options, Weights, activation_name
from t2t.export.mapping import EXPERT, Entry, Transposed, normalised
from t2t.export.patterns import in_pattern, shortest_pattern
from t2t.models.config import LayerOptions, StackConfig
from t2t.models.encoder_decoder import EncoderDecoderConfig
from t2t.models.mixtral.mapping import in_layer
from t2t.models.switch.presets import ROOM
from t2t.models.t5.mapping import T5, stack_entries
from t2t.nn.model import ModelConfig
from t2t.nn.moe.router import Router

DENSE = LayerOptions(num_experts=0)
"""Options of a layer without experts in a stack with experts."""


class SwitchTransformers(T5):
    """Switch Transformers: T5 1.0 with experts in some of the layers."""

    name: ClassVar[str] = "Switch Transformers"
    model_types: ClassVar[tuple[str, ...]] = ("switch_transformers",)
    model: ClassVar[str] = "SwitchTransformers"

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return the configuration."""
        options.must("router_bias", False, why="a bias of the router is not supported")
        options.must("router_dtype", "float32", why="routers compute in float32")
        options.must("num_selected_experts", 1, why="each token has one expert")
        options.free("router_ignore_padding_tokens", "router_type", "add_router_probs", "output_router_logits")
        options.free("is_full_sparse")
        shared: dict[str, Any] = {
            "num_experts": options.size("num_experts", 8),
            "experts_per_token": 1,
            "expert_tokens": options.size("expert_capacity", ROOM),
            "router": Router(
                normalized=False,
                balance_loss=float(options.number("router_aux_loss_coef", 0.001)),
                balance_over="row",
                z_loss=float(options.number("router_z_loss_coef", 0.001)),
                jitter=float(options.number("router_jitter_noise", 0.01)),
            ),
        }
        config = super().config(options, weights)
        if not isinstance(config, EncoderDecoderConfig):
            raise options.refuse("architectures", options.architecture, "the encoder alone is not supported")
        stacks: dict[str, Any] = {}
        for side in ("encoder", "decoder"):
            stack: StackConfig = getattr(config, side)
            stacks[side] = replace(stack, **shared, pattern=_pattern(options, side, stack.num_layers))
        return replace(config, **stacks)

    def feed_forward(self, options: Options) -> tuple[str, bool]:
        """Return the activation of feed-forward layers, which are not gated."""
        function = options.take("dense_act_fn", "relu")
        options.must("feed_forward_proj", function, why="dense_act_fn is another activation")
        options.must("is_gated_act", False, why="experts of this class are not gated")
        return options.activation("dense_act_fn", "relu"), False

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family."""
        options = super().options(config)
        if options is None or not isinstance(config, EncoderDecoderConfig):
            return None
        encoder, decoder = config.encoder, config.decoder
        if encoder.num_experts != decoder.num_experts or encoder.gated or config.tied != config.scaled_head:
            return None
        counts = {side: _sparse_layers(getattr(config, side)) for side in ("encoder", "decoder")}
        if not encoder.num_experts or None in counts.values():
            return None
        for name in ("feed_forward_proj", "scale_decoder_outputs"):
            del options[name]
        return {
            **options,
            "dense_act_fn": activation_name(encoder.activation),
            "num_experts": encoder.num_experts,
            "expert_capacity": encoder.expert_tokens,
            **{f"num_sparse_{side}_layers": count for side, count in counts.items()},
            "router_aux_loss_coef": decoder.router.balance_loss,
            "router_z_loss_coef": decoder.router.z_loss,
            "router_jitter_noise": decoder.router.jitter,
        }

    def stack(self, side: str, stack: StackConfig) -> list[Entry]:
        """Return the entries of one stack, with and without experts."""
        block, ours = f"{side}.block.{{layer}}.layer.{2 if side == 'decoder' else 1}", f"{side}/layers"
        table = [
            *stack_entries(side, stack, feed_forward="mlp"),
            Entry(f"{block}.mlp.router.classifier.weight", (f"{ours}/moe/router",), Transposed()),
            *normalised(f"{block}.layer_norm", f"{ours}/moe_norm", bias=False),
        ]
        for theirs, own in (("wi", "up"), ("wo", "down")):
            name = f"{block}.mlp.experts.expert_{EXPERT}.{theirs}.weight"
            table.append(Entry(name, (f"{ours}/moe/{own}",), Transposed()))
        return in_pattern(table, side, stack, has=in_layer)


def _has_experts(layer: int, step: int) -> bool:
    """Return whether a layer has experts, as `transformers` decides it."""
    return step == 1 or (step > 1 and layer % step == 1)


def _pattern(options: Options, side: str, num_layers: int) -> tuple[LayerOptions, ...]:
    """Return the pattern of layers with and without experts; () if all have them."""
    name = f"num_sparse_{side}_layers"
    count = options.size(name, 3, least=0)
    # Without a number of layers with experts, transformers gives them to the second layer.
    step = num_layers // count if count else num_layers
    options.must(f"{side}_sparse_step", step, why=f"{name} gives another number")
    layers = [LayerOptions() if _has_experts(layer, step) else DENSE for layer in range(num_layers)]
    pattern = shortest_pattern(layers)
    return () if pattern == (LayerOptions(),) else pattern


def _sparse_layers(stack: StackConfig) -> int | None:
    """Return the number of layers with experts as config.json counts them; None if no number gives the layers of the stack."""
    if stack.first or any(place not in (LayerOptions(), DENSE) for place in stack.places):
        return None
    found = [stack.places[layer % len(stack.places)] != DENSE for layer in range(stack.num_layers)]
    for count in range(1, stack.num_layers + 2):
        if found == [_has_experts(layer, stack.num_layers // count) for layer in range(stack.num_layers)]:
            return count
    return None
