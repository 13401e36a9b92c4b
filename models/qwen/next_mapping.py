"""Conversion of Qwen3-Next to and from `transformers` (Qwen3NextForCausalLM)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from t2t.export.family import Options, Weights
from t2t.export.filters import convolution
from t2t.export.mapping import Entry, Interleaved, linear, normalised, same
from t2t.export.patterns import in_pattern, shortest_pattern
from t2t.models.config import LayerOptions, StackConfig
from t2t.models.decoder import DecoderConfig
from t2t.models.llama.mapping import Llama, attention_products, decoder_fields, decoder_options, read_rotary
from t2t.models.mixtral.mapping import expert_entries, in_layer
from t2t.models.qwen.mapping import dense_layers
from t2t.models.qwen.next_presets import DELTA, hybrid, qwen3_next
from t2t.nn.model import ModelConfig
from t2t.nn.moe.router import Router
from t2t.nn.recurrent.gated_delta_net import GatedDeltaNetConfig

_KINDS = {"linear_attention": True, "full_attention": False}
"""Names of the kinds of layers -> whether they have the delta rule."""


class Qwen3Next(Llama):
    """Qwen3-Next: layers with the gated delta rule and layers with gated attention, with experts in all or some of them."""

    name = "Qwen3-Next"
    model_types = ("qwen3_next",)
    left_out: ClassVar[Mapping[str, str]] = {
        r"mtp\..*": "the layers that predict further tokens are not part of the model"
    }
    norms: ClassVar[Mapping[str, str]] = {
        "attention_norm": "input_layernorm",
        "gated_delta_net_norm": "input_layernorm",
        "mlp_norm": "post_attention_layernorm",
        "moe_norm": "post_attention_layernorm",
    }

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return the configuration."""
        options.free("output_router_logits", "use_sliding_window")
        options.must("hidden_act", "silu", why="other activations of the convolutions are not supported")
        share = float(options.number("partial_rotary_factor", 0.25))
        rotary = read_rotary(options, max_length=32_768, share=share)
        fields = decoder_fields(options, num_kv_heads=2, head_dim=256, max_length=32_768, rotary=rotary)
        delta = GatedDeltaNetConfig(
            num_heads=options.size("linear_num_value_heads", 32),
            num_key_heads=options.size("linear_num_key_heads", 16),
            key_dim=options.size("linear_key_head_dim", 128),
            value_dim=options.size("linear_value_head_dim", 128),
            convolution=options.size("linear_conv_kernel_dim", 4),
            norm_epsilon=fields["norm_epsilon"],
        )
        return qwen3_next(
            **fields,
            attention_biases=options.flag("attention_bias", False),
            num_experts=options.size("num_experts", 512),
            experts_per_token=options.size("num_experts_per_tok", 10),
            expert_d_ff=options.size("moe_intermediate_size", 512),
            shared_expert_d_ff=options.size("shared_expert_intermediate_size", 512),
            router=Router(
                normalized=options.flag("norm_topk_prob", True),
                balance_loss=float(options.number("router_aux_loss_coef", 0.001)),
            ),
            pattern=_pattern(options, fields["num_layers"], delta),
        )

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family."""
        shared = decoder_options(config)
        if shared is None:
            return None
        assert isinstance(config, DecoderConfig)
        stack = config.decoder
        mixers = {place.mixer for place in stack.places} - {None}
        delta = next(iter(mixers), DELTA)
        if not stack.attention_gate or len(mixers) > 1 or not isinstance(delta, GatedDeltaNetConfig):
            return None
        layers = [stack.places[layer % len(stack.places)] for layer in range(stack.num_layers)]
        return {
            "architectures": ["Qwen3NextForCausalLM"],
            "model_type": "qwen3_next",
            **shared,
            "partial_rotary_factor": stack.rotary.share,
            "attention_bias": stack.has_attention_biases,
            "layer_types": ["full_attention" if place.mixer is None else "linear_attention" for place in layers],
            "linear_num_value_heads": delta.num_heads,
            "linear_num_key_heads": delta.key_heads,
            "linear_key_head_dim": delta.key_dim,
            "linear_value_head_dim": delta.value_dim,
            "linear_conv_kernel_dim": delta.convolution,
            "num_experts": stack.num_experts,
            "num_experts_per_tok": stack.experts_per_token,
            "moe_intermediate_size": stack.expert_size,
            "shared_expert_intermediate_size": stack.shared_expert_d_ff,
            "norm_topk_prob": stack.router.normalized,
            "router_aux_loss_coef": stack.router.balance_loss,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [number for number, place in enumerate(layers) if place.num_experts == 0],
        }

    def products(self, layer: str, ours: str, stack: StackConfig) -> list[Entry]:
        """Return the entries of the matrix products of a layer, of every kind."""
        names = {name: f"{name}_proj" for name in ("gate", "up", "down")}
        table = _gated(attention_products(layer, ours, stack), ours, stack)
        table += _delta_entries(f"{layer}.linear_attn", f"{ours}/gated_delta_net", _delta(stack))
        for name, theirs in names.items():
            table += linear(f"{layer}.mlp.{theirs}", f"{ours}/mlp/{name}", bias=False)
            table += linear(f"{layer}.mlp.shared_expert.{theirs}", f"{ours}/moe/shared/{name}", bias=False)
        table += linear(f"{layer}.mlp.shared_expert_gate", f"{ours}/moe/shared_gate", bias=False)
        return [*table, *expert_entries(f"{layer}.mlp", f"{ours}/moe", names)]

    def entries(self, config: ModelConfig) -> list[Entry]:
        """Return the entries of all tensors."""
        assert isinstance(config, DecoderConfig)
        return in_pattern(super().entries(config), "decoder", config.decoder, has=in_layer)


def _gated(attention: list[Entry], ours: str, stack: StackConfig) -> list[Entry]:
    """Return the entries of attention, in which the tensors of queries also have the gate: for each head the query, then its gate."""
    query, joined = f"{ours}/attention/query/", []
    for entry in attention:
        path = entry.ours[0]
        if path.startswith(query):
            both = (path, path.replace("/query/", "/gate/"))
            joined.append(Entry(entry.theirs, both, Interleaved(stack.num_heads)))
        else:
            joined.append(entry)
    return joined


def _delta(stack: StackConfig) -> GatedDeltaNetConfig:
    """Return the options of the layers with the delta rule; those of the published model if there are none."""
    mixers = [place.mixer for place in stack.places if isinstance(place.mixer, GatedDeltaNetConfig)]
    return mixers[0] if mixers else DELTA


def _delta_entries(theirs: str, ours: str, delta: GatedDeltaNetConfig) -> list[Entry]:
    """Return the entries of a layer with the delta rule. Its products are joined head by head, for each head of the keys."""

    def joined(name: str, *parts: str) -> Entry:
        return Entry(
            f"{theirs}.{name}.weight", tuple(f"{ours}/{part}/kernel" for part in parts), Interleaved(delta.key_heads)
        )

    convolutions = [f"{ours}/{part}_convolution" for part in ("query", "key", "value")]
    return [
        joined("in_proj_qkvz", "query", "key", "value", "gate"),
        joined("in_proj_ba", "rate", "decay"),
        *convolution(f"{theirs}.conv1d", convolutions, bias=False),
        same(f"{theirs}.A_log", f"{ours}/a_log"),
        same(f"{theirs}.dt_bias", f"{ours}/dt_bias"),
        *normalised(f"{theirs}.norm", f"{ours}/head_norm", bias=False),
        *linear(f"{theirs}.out_proj", f"{ours}/out", bias=False),
    ]


def _pattern(options: Options, num_layers: int, delta: GatedDeltaNetConfig) -> tuple[LayerOptions, ...]:
    """Return the pattern of layers with the delta rule and with attention, with and without experts."""
    every = options.size("full_attention_interval", 4)
    kinds = options.take("layer_types", None)
    if kinds is None:
        mixers = [hybrid(delta, every)[layer % every].mixer for layer in range(num_layers)]
    else:
        if not isinstance(kinds, list) or len(kinds) != num_layers or any(kind not in _KINDS for kind in kinds):
            raise options.refuse("layer_types", kinds, f"expected a list of {num_layers} of {', '.join(_KINDS)}")
        mixers = [delta if _KINDS[kind] else None for kind in kinds]
    dense = dense_layers(options, num_layers)
    layers = [
        LayerOptions(mixer=mixer, num_experts=0 if without else None)
        for mixer, without in zip(mixers, dense, strict=True)
    ]
    pattern = shortest_pattern(layers)
    return () if pattern == (LayerOptions(),) else pattern
