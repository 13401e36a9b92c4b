"""Conversion of DeepSeek-V3 to and from `transformers` (DeepseekV3ForCausalLM)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from t2t.export.family import Options, Weights
from t2t.export.mapping import Entry, Operation, Shape, linear, normalised, same
from t2t.export.patterns import in_pattern
from t2t.models.config import LayerOptions, StackConfig
from t2t.models.decoder import DecoderConfig
from t2t.models.deepseek.presets import DENSE, deepseek
from t2t.models.llama.mapping import NORMS, Llama, decoder_fields, decoder_options
from t2t.models.mixtral.mapping import expert_entries, in_layer
from t2t.nn.attention.latent import Latent
from t2t.nn.model import ModelConfig
from t2t.nn.moe.router import Router
from t2t.nn.rotary import shuffled


@dataclass(frozen=True)
class RotaryLast(Operation):
    """A matrix with the output axis first, or a bias, whose last `rotary` outputs of each head rotate in pairs of adjacent coordinates.

    Ours rotate coordinate i of the first half with coordinate i of the second half.
    """

    heads: int
    rotary: int

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Return the reordered transpose."""
        return [self._reordered(theirs, to_halves=True).T]

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Return the transpose in their order."""
        return self._reordered(ours[0].T, to_halves=False)

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        """Return the reversed shape."""
        return shapes[0][::-1]

    def _reordered(self, rows: np.ndarray, *, to_halves: bool) -> np.ndarray:
        by_head = np.array(rows).reshape(self.heads, -1, *rows.shape[1:])
        last = by_head[:, -self.rotary :]
        flat = last.reshape(-1, *rows.shape[1:])
        by_head[:, -self.rotary :] = shuffled(flat, self.heads, to_halves=to_halves).reshape(last.shape)
        return by_head.reshape(rows.shape)


class DeepseekV3(Llama):
    """DeepSeek-V3: latent attention, and experts chosen from groups with biases that balance their load."""

    name = "DeepSeek-V3"
    model_types = ("deepseek_v3",)
    norms: ClassVar[Mapping[str, str]] = {**NORMS, "moe_norm": NORMS["mlp_norm"]}
    left_out: ClassVar[Mapping[str, str]] = {
        r"model\.layers\.61\..*": "the module that predicts a second token is not part of the model"
    }

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return the configuration."""
        for name, wanted, why in (
            ("rope_interleave", True, "the rotary coordinates of published weights are in adjacent pairs"),
            ("scoring_func", "sigmoid", "the scores of experts are sigmoids"),
            ("topk_method", "noaux_tc", "experts are chosen by scores with biases"),
            ("moe_layer_freq", 1, "all layers after the first ones have experts"),
        ):
            options.must(name, wanted, why=why)
        options.free("num_nextn_predict_layers", "num_mtp_layers", "output_router_logits")
        options.free("ep_size", "aux_loss_alpha", "seq_aux", "auto_map")
        head_dim, rotary_dim = options.size("qk_nope_head_dim", 128), options.size("qk_rope_head_dim", 64)
        options.must("head_dim", rotary_dim, why="it is the width of the rotary part of a head, qk_rope_head_dim")
        options.must("qk_head_dim", head_dim + rotary_dim, why="it is qk_nope_head_dim + qk_rope_head_dim")
        fields = decoder_fields(options, max_length=4096)
        options.must("num_key_value_heads", fields["num_heads"], why="latent attention has keys for each head")
        query_rank = options.nullable("q_lora_rank", 1536)
        width = options.size("moe_intermediate_size", 2048)
        return deepseek(
            **{**fields, "head_dim": head_dim, "num_kv_heads": None},
            attention_biases=options.flag("attention_bias", False),
            latent=Latent(
                rank=options.size("kv_lora_rank", 512),
                query_rank=None if query_rank is None else options.size("q_lora_rank", 1536),
                rotary_dim=rotary_dim,
                value_dim=options.size("v_head_dim", 128),
            ),
            num_experts=options.size("n_routed_experts", options.size("num_local_experts", 256)),
            experts_per_token=options.size("num_experts_per_tok", 8),
            expert_d_ff=width,
            shared_expert_d_ff=width * options.size("n_shared_experts", 1),
            router=Router(
                scores="sigmoid",
                normalized=options.flag("norm_topk_prob", True),
                scale=float(options.number("routed_scaling_factor", 2.5)),
                groups=options.size("n_group", 8),
                groups_per_token=options.size("topk_group", 4),
                bias_rate=0.001,
                balance_loss=0.0,
            ),
            dense_layers=options.size("first_k_dense_replace", 3, least=0),
        )

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family."""
        shared = decoder_options(config)
        if shared is None:
            return None
        assert isinstance(config, DecoderConfig)
        stack, router = config.decoder, config.decoder.router
        if not stack.latent.rank or not stack.num_experts or stack.shared_expert_d_ff is None:
            return None
        if stack.places != (LayerOptions(),) or set(stack.first) - {DENSE}:
            return None
        return {
            "architectures": ["DeepseekV3ForCausalLM"],
            "model_type": "deepseek_v3",
            **shared,
            "head_dim": stack.latent.rotary_dim,
            "attention_bias": stack.has_attention_biases,
            "kv_lora_rank": stack.latent.rank,
            "q_lora_rank": stack.latent.query_rank,
            "qk_nope_head_dim": stack.head_size,
            "qk_rope_head_dim": stack.latent.rotary_dim,
            "v_head_dim": stack.latent.value_dim or stack.head_size,
            "rope_interleave": True,
            "n_routed_experts": stack.num_experts,
            "num_experts_per_tok": stack.experts_per_token,
            "moe_intermediate_size": stack.expert_size,
            "n_shared_experts": stack.shared_expert_d_ff // stack.expert_size,
            "n_group": router.groups,
            "topk_group": router.groups_per_token,
            "routed_scaling_factor": router.scale,
            "norm_topk_prob": router.normalized,
            "first_k_dense_replace": len(stack.first),
            "num_nextn_predict_layers": 0,
        }

    def products(self, layer: str, ours: str, stack: StackConfig) -> list[Entry]:
        """Return the entries of the matrix products of a layer, with and without experts, and of the norms inside attention."""
        names = {name: f"{name}_proj" for name in ("gate", "up", "down")}
        table = [
            *latent_entries(f"{layer}.self_attn", f"{ours}/attention", stack),
            *expert_entries(f"{layer}.mlp", f"{ours}/moe", names),
            same(f"{layer}.mlp.gate.e_score_correction_bias", f"{ours}/moe/bias"),
        ]
        for own, name in names.items():
            table += linear(f"{layer}.mlp.{name}", f"{ours}/mlp/{own}", bias=False)
            table += linear(f"{layer}.mlp.shared_experts.{name}", f"{ours}/moe/shared/{own}", bias=False)
        return table

    def entries(self, config: ModelConfig) -> list[Entry]:
        """Return the entries of all tensors."""
        assert isinstance(config, DecoderConfig)
        return in_pattern(super().entries(config), "decoder", config.decoder, has=in_layer)


def latent_entries(theirs: str, ours: str, stack: StackConfig) -> list[Entry]:
    """Return the entries of latent attention. theirs, ours: prefix of their names and of ours."""
    latent, biases = stack.latent, stack.has_attention_biases
    queries, keys = RotaryLast(stack.num_heads, latent.rotary_dim), RotaryLast(1, latent.rotary_dim)
    query = "q_proj" if latent.query_rank is None else "q_b_proj"
    table = [
        Entry(f"{theirs}.{query}.weight", (f"{ours}/query/kernel",), queries),
        Entry(f"{theirs}.kv_a_proj_with_mqa.weight", (f"{ours}/latent/kernel",), keys),
        *normalised(f"{theirs}.kv_a_layernorm", f"{ours}/latent_norm", bias=False),
        *linear(f"{theirs}.kv_b_proj", f"{ours}/key_value", bias=False),
        *linear(f"{theirs}.o_proj", f"{ours}/out", bias=stack.has_attention_output_bias),
    ]
    if biases:
        table.append(Entry(f"{theirs}.kv_a_proj_with_mqa.bias", (f"{ours}/latent/bias",), keys))
    if latent.query_rank is not None:
        table += linear(f"{theirs}.q_a_proj", f"{ours}/query_latent", bias=biases)
        table += normalised(f"{theirs}.q_a_layernorm", f"{ours}/query_norm", bias=False)
    return table
