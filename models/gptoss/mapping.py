"""Conversion of gpt-oss to and from `transformers` (GptOssForCausalLM)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from t2t.export.family import Options, Weights
from t2t.export.mapping import Entry, Joined, Operation, Shape, Transposed, same
from t2t.export.patterns import in_pattern
from t2t.models.config import StackConfig
from t2t.models.decoder import DecoderConfig
from t2t.models.gemma.mapping import window_fields, window_options
from t2t.models.gptoss.presets import ROTARY, gpt_oss
from t2t.models.llama.mapping import Llama, attention_products, decoder_fields, decoder_options
from t2t.nn.model import ModelConfig
from t2t.nn.moe.router import Router

ALPHA = 1.702
"""The factor in the experts' activation, x sigmoid(1.702 x)."""


@dataclass(frozen=True)
class Alternated(Operation):
    """The columns of our arrays in turn: the first of each, then the second of each."""

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Take every n-th column."""
        return [theirs[..., part :: len(shapes)] for part in range(len(shapes))]

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Alternate the columns."""
        return np.stack(ours, axis=-1).reshape(*ours[0].shape[:-1], -1)

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        """Return the shape of the tensor."""
        return Joined(axis=-1).shape(shapes)


class GptOss(Llama):
    """gpt-oss. The published experts are MXFP4, which `t2t.export.mxfp4` reads; an export has floats."""

    name = "gpt-oss"
    model_types = ("gpt_oss",)
    norms: ClassVar[Mapping[str, str]] = {"attention_norm": "input_layernorm", "moe_norm": "post_attention_layernorm"}

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return the configuration."""
        method = options.group("quantization_config").get("quant_method", "mxfp4")
        if method != "mxfp4":
            raise options.refuse("quantization_config.quant_method", method, "only 'mxfp4' is supported")
        # Published files also have the last two, which transformers does not read.
        options.free("output_router_logits", "experts_per_token", "initial_context_length")
        options.must("hidden_act", "silu", why="the activation of gpt-oss is fixed")
        options.must("swiglu_alpha", ALPHA, why="another factor in the activation is not supported")
        plain = options.take("rope_scaling", None) is None and options.take("rope_parameters", None) is None
        rotary = replace(ROTARY, base=float(options.number("rope_theta", ROTARY.base))) if plain else None
        shared = decoder_fields(
            options,
            num_kv_heads=8,
            head_dim=64,
            base=ROTARY.base,
            rotary=rotary,
            max_length=131_072,
            norm_epsilon=1e-5,
        )
        return gpt_oss(
            **{**shared, "activation": "quick_gelu"},
            **window_fields(options, shared["num_layers"], every=2, window=128),
            attention_biases=options.flag("attention_bias", True),
            num_experts=options.size("num_local_experts", 128),
            experts_per_token=options.size("num_experts_per_tok", 4),
            expert_limit=float(options.number("swiglu_limit", 7.0)),
            router=Router(balance_loss=float(options.number("router_aux_loss_coef", 0.001))),
        )

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family."""
        shared = decoder_options(config)
        if shared is None:
            return None
        assert isinstance(config, DecoderConfig)
        stack = config.decoder
        if not stack.num_experts or not stack.attention_sinks:
            return None
        return {
            "architectures": ["GptOssForCausalLM"],
            "model_type": "gpt_oss",
            **shared,
            **window_options(stack),
            # Without it, transformers takes the published positions.
            "rope_scaling": shared["rope_scaling"] or {"rope_type": "default"},
            "hidden_act": "silu",
            "intermediate_size": stack.expert_size,
            "attention_bias": stack.has_attention_biases,
            "num_local_experts": stack.num_experts,
            "num_experts_per_tok": stack.experts_per_token,
            "swiglu_alpha": ALPHA,
            "swiglu_limit": stack.expert_limit,
            "router_aux_loss_coef": stack.router.balance_loss,
        }

    def products(self, layer: str, ours: str, stack: StackConfig) -> list[Entry]:
        """Return the entries of the matrix products of a layer. The two branches of an expert are one tensor, whose columns alternate."""
        theirs, own = f"{layer}.mlp", f"{ours}/moe"
        return [
            *attention_products(layer, ours, stack),
            same(f"{layer}.self_attn.sinks", f"{ours}/attention/sinks"),
            Entry(f"{theirs}.router.weight", (f"{own}/router",), Transposed()),
            same(f"{theirs}.router.bias", f"{own}/router_bias"),
            Entry(f"{theirs}.experts.gate_up_proj", (f"{own}/gate", f"{own}/up"), Alternated()),
            Entry(f"{theirs}.experts.gate_up_proj_bias", (f"{own}/gate_bias", f"{own}/up_bias"), Alternated()),
            same(f"{theirs}.experts.down_proj", f"{own}/down"),
            same(f"{theirs}.experts.down_proj_bias", f"{own}/down_bias"),
        ]

    def entries(self, config: ModelConfig) -> list[Entry]:
        """Return the entries of all tensors."""
        assert isinstance(config, DecoderConfig)
        return in_pattern(super().entries(config), "decoder", config.decoder)
