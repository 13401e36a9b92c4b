"""Conversion of Mixtral to and from `transformers` (MixtralForCausalLM), and the tensors of experts that other families have too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from t2t.export.family import Options, Weights
from t2t.export.mapping import EXPERT, Entry, Transposed
from t2t.models.config import LayerOptions, StackConfig
from t2t.models.decoder import DecoderConfig
from t2t.models.llama.mapping import Llama, attention_products, decoder_fields, decoder_options
from t2t.models.mixtral.presets import mixtral
from t2t.nn.model import ModelConfig
from t2t.nn.moe.router import Router


class Mixtral(Llama):
    """Mixtral: Mistral with experts in each layer."""

    name = "Mixtral"
    model_types = ("mixtral",)
    norms: ClassVar[Mapping[str, str]] = {"attention_norm": "input_layernorm", "moe_norm": "post_attention_layernorm"}

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return the configuration."""
        options.must("router_jitter_noise", 0.0, why="noise on the inputs of experts is not supported")
        options.free("output_router_logits")
        return mixtral(
            **decoder_fields(options, num_kv_heads=8, base=1e6, max_length=131_072, norm_epsilon=1e-5),
            window=options.nullable("sliding_window", None),
            num_experts=options.size("num_local_experts", 8),
            experts_per_token=options.size("num_experts_per_tok", 2),
            router=Router(balance_loss=float(options.number("router_aux_loss_coef", 0.001))),
        )

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family."""
        shared = decoder_options(config)
        if shared is None:
            return None
        assert isinstance(config, DecoderConfig)
        stack = config.decoder
        if not stack.num_experts or len(stack.places) > 1 or stack.qk_norm:
            return None
        return {
            "architectures": ["MixtralForCausalLM"],
            "model_type": "mixtral",
            **shared,
            "intermediate_size": stack.expert_size,
            "sliding_window": stack.window,
            "num_local_experts": stack.num_experts,
            "num_experts_per_tok": stack.experts_per_token,
            "router_aux_loss_coef": stack.router.balance_loss,
        }

    def products(self, layer: str, ours: str, stack: StackConfig) -> list[Entry]:
        """Return the entries of the matrix products of a layer. layer, ours: prefix of their names and of ours."""
        names = {"gate": "w1", "up": "w3", "down": "w2"}
        experts = expert_entries(f"{layer}.block_sparse_moe", f"{ours}/moe", names)
        return [*attention_products(layer, ours, stack), *experts]


def expert_entries(theirs: str, ours: str, names: Mapping[str, str]) -> list[Entry]:
    """Return the entries of a router and its experts.

    theirs, ours: prefix of their names and of ours.
    names:        our name of a kernel -> theirs.
    """
    table = [Entry(f"{theirs}.gate.weight", (f"{ours}/router",), Transposed())]
    for own, name in names.items():
        table.append(Entry(f"{theirs}.experts.{EXPERT}.{name}.weight", (f"{ours}/{own}",), Transposed()))
    return table


def in_layer(place: LayerOptions, stack: StackConfig, path: str) -> bool:
    """Return whether the layers of a place have a parameter: of their own mixer ("attention/...", "attention_norm/...") and cross attention, and of experts ("moe/...") or an MLP.

    stack: the options of the stack with those of the place.
    """
    kind = path.partition("/")[0].removesuffix("_norm").removeprefix("cross_")
    if kind in ("moe", "mlp"):
        return (kind == "moe") == bool(stack.num_experts)
    return kind == ("attention" if place.mixer is None else place.mixer.name)
