"""Small configurations of mixtures of experts: Mixtral, Qwen 3, Qwen3-Next and gpt-oss. Their losses include the load-balancing loss."""

from __future__ import annotations

from typing import Any

from tests.interop.case import LLAMA, Case, case

_ROUTED = {"output_router_logits": True, "router_aux_loss_coef": 0.1}


def _mixtral(name: str, **options: Any) -> Case:
    return case("Mixtral", name, "MixtralConfig", "MixtralForCausalLM", LLAMA, **_ROUTED, **options)


def _qwen3(name: str, **options: Any) -> Case:
    sizes = {**LLAMA, "head_dim": 16, "moe_intermediate_size": 20}
    return case("Qwen3 MoE", name, "Qwen3MoeConfig", "Qwen3MoeForCausalLM", sizes, **_ROUTED, **options)


_YARN = {"rope_type": "yarn", "rope_theta": 1.5e5, "factor": 8.0, "original_max_position_embeddings": 8}
_YARN |= {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}


def _gpt_oss(name: str, **options: Any) -> Case:
    sizes = {**LLAMA, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 4}
    return case("gpt-oss", name, "GptOssConfig", "GptOssForCausalLM", {**sizes, **_ROUTED}, **options)


def _qwen3_next(name: str, **options: Any) -> Case:
    sizes = {**LLAMA, "num_hidden_layers": 4, "head_dim": 16, "moe_intermediate_size": 20}
    sizes |= {"shared_expert_intermediate_size": 24, "num_experts": 8, "num_experts_per_tok": 4}
    sizes |= {"linear_key_head_dim": 8, "linear_value_head_dim": 6, "linear_num_key_heads": 2}
    return case(
        "Qwen3-Next",
        name,
        "Qwen3NextConfig",
        "Qwen3NextForCausalLM",
        {**sizes, "linear_num_value_heads": 4, **_ROUTED},
        **options,
    )


CASES = (
    _mixtral("as published", num_local_experts=8),
    _mixtral(
        "three of four experts, window, tied, GELU",
        num_local_experts=4,
        num_experts_per_tok=3,
        sliding_window=4,
        tie_word_embeddings=True,
        hidden_act="gelu",
    ),
    _qwen3("as published", num_experts=8, num_experts_per_tok=4, norm_topk_prob=True),
    _qwen3(
        "some layers, unnormalized, biases",
        num_hidden_layers=5,
        num_experts=4,
        num_experts_per_tok=2,
        decoder_sparse_step=2,
        mlp_only_layers=[3],
        attention_bias=True,
    ),
    _gpt_oss("as published", rope_parameters=_YARN),
    _gpt_oss(
        "other layers, tied, low limit, plain positions",
        num_hidden_layers=3,
        num_key_value_heads=4,
        num_experts_per_tok=3,
        layer_types=["full_attention", "full_attention", "sliding_attention"],
        sliding_window=3,
        tie_word_embeddings=True,
        attention_bias=False,
        swiglu_limit=0.5,
        rms_norm_eps=1e-2,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    ),
    _qwen3_next("as published"),
    _qwen3_next(
        "other layers, unnormalized, biases, tied",
        num_hidden_layers=3,
        layer_types=["full_attention", "linear_attention", "linear_attention"],
        mlp_only_layers=[2],
        norm_topk_prob=False,
        attention_bias=True,
        tie_word_embeddings=True,
        linear_num_key_heads=4,
        linear_key_head_dim=16,
        linear_conv_kernel_dim=2,
        rms_norm_eps=1e-3,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5},
    ),
)
