"""Small configurations of mixtures of experts. The losses of Mixtral, Qwen 3, Qwen3-Next, gpt-oss and Switch Transformers include the losses of their routers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.interop.case import LLAMA, T5, Case, case

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
    sizes |= {"linear_num_value_heads": 4, **_ROUTED}
    made = case("Qwen3-Next", name, "Qwen3NextConfig", "Qwen3NextForCausalLM", sizes, **options)
    # At 3e-4, transformers with weights that differ by one rounding is 0.2 to 0.5 apart from itself within 100 steps: the norm of a head amplifies rounding
    # errors where the head reads nearly nothing, such as at the first token. At this rate it is less than 7e-4 apart.
    return replace(made, rate=1e-5)


def _deepseek(name: str, **options: Any) -> Case:
    sizes = {**LLAMA, "num_hidden_layers": 3, "num_key_value_heads": 4, "moe_intermediate_size": 20}
    sizes |= {"kv_lora_rank": 12, "q_lora_rank": 24, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 6}
    sizes |= {
        "n_routed_experts": 8,
        "num_experts_per_tok": 3,
        "n_group": 4,
        "topk_group": 2,
        "first_k_dense_replace": 1,
    }
    return case("DeepSeek-V3", name, "DeepseekV3Config", "DeepseekV3ForCausalLM", {**sizes, **options})


def _switch(name: str, **options: Any) -> Case:
    sizes = {**T5, "num_layers": 4, "num_decoder_layers": 4, "num_sparse_encoder_layers": 2, "num_experts": 4}
    sizes |= {"num_sparse_decoder_layers": 2, "router_jitter_noise": 0.0, "router_aux_loss_coef": 0.1}
    sizes |= {"router_z_loss_coef": 0.1}
    model = "SwitchTransformersForConditionalGeneration"
    return case("Switch Transformers", name, "SwitchTransformersConfig", model, {**sizes, **options})


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
    # With the published epsilon of 1e-6, the norms of heads that read nearly nothing amplify rounding errors.
    _qwen3_next("larger epsilon", rms_norm_eps=1e-3),
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
    _deepseek(
        "as published",
        rope_parameters={
            **{"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16},
            **{"mscale": 1.0, "mscale_all_dim": 1.0},
        },
    ),
    _deepseek(
        "queries without latent, one group, biases, shared experts, mscale",
        q_lora_rank=None,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=0,
        n_shared_experts=2,
        attention_bias=True,
        norm_topk_prob=False,
        rope_parameters={
            **{"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16},
            **{"mscale": 0.7, "mscale_all_dim": 1.3},
        },
    ),
    _switch("as published"),
    _switch(
        "little room, experts in every third layer, GELU",
        num_layers=6,
        num_decoder_layers=3,
        num_sparse_decoder_layers=1,
        expert_capacity=2,
        dense_act_fn="gelu",
    ),
)
