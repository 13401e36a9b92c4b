"""DeepSeek-V3 and Switch Transformers as they were published: their config.json with smaller sizes, their tensors, and what is refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from t2t.errors import UserError
from t2t.export.huggingface import opened
from t2t.models.families import family_of
from t2t.sharding import MeshConfig
from tests.interop.cases import CASES
from tests.interop.goldens import write_directory

BY_NAME = {case.name: case for case in CASES}
DEEPSEEK, SWITCH = BY_NAME["DeepSeek-V3 as published"], BY_NAME["Switch Transformers as published"]
PUBLISHED_DEEPSEEK = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_deepseek.DeepseekV3Config",
        "AutoModelForCausalLM": "modeling_deepseek.DeepseekV3ForCausalLM",
    },
    "bos_token_id": 0,
    "eos_token_id": 1,
    "ep_size": 1,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "kv_lora_rank": 12,
    "max_position_embeddings": 64,
    "model_type": "deepseek_v3",
    "moe_intermediate_size": 20,
    "moe_layer_freq": 1,
    "n_group": 4,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "num_nextn_predict_layers": 1,
    "q_lora_rank": 24,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 4.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 16,
        "type": "yarn",
    },
    "rope_theta": 10000,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "tie_word_embeddings": False,
    "topk_group": 2,
    "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16",
    "transformers_version": "4.33.1",
    "use_cache": True,
    "v_head_dim": 6,
    "vocab_size": 96,
}
"""DeepSeek-V3 in bfloat16, with small sizes."""
PUBLISHED_SWITCH = {
    "add_router_probs": False,
    "architectures": ["SwitchTransformersForConditionalGeneration"],
    "d_ff": 48,
    "d_kv": 8,
    "d_model": 32,
    "decoder_sparse_step": 2,
    "dense_act_fn": "relu",
    "dropout_rate": 0.1,
    "encoder_sparse_step": 2,
    "eos_token_id": 1,
    "expert_capacity": 64,
    "feed_forward_proj": "relu",
    "initializer_factor": 1.0,
    "decoder_start_token_id": 0,
    "is_encoder_decoder": True,
    "is_gated_act": False,
    "layer_norm_epsilon": 1e-06,
    "model_type": "switch_transformers",
    "num_decoder_layers": 4,
    "num_experts": 4,
    "num_heads": 3,
    "num_layers": 4,
    "num_selected_experts": 1,
    "num_sparse_decoder_layers": 2,
    "num_sparse_encoder_layers": 2,
    "pad_token_id": 0,
    "relative_attention_max_distance": 12,
    "relative_attention_num_buckets": 8,
    "router_aux_loss_coef": 0.001,
    "router_bias": False,
    "router_dtype": "float32",
    "router_ignore_padding_tokens": False,
    "router_jitter_noise": 0.01,
    "router_type": "tokens_masked",
    "router_z_loss_coef": 0.001,
    "torch_dtype": "float32",
    "transformers_version": "4.25.0.dev0",
    "use_cache": True,
    "vocab_size": 96,
}
"""Switch-Base, with small sizes."""


@pytest.mark.parametrize(
    ("case", "published", "today"),
    [
        (DEEPSEEK, PUBLISHED_DEEPSEEK, {}),
        (
            SWITCH,
            PUBLISHED_SWITCH,
            {
                "dropout_rate": 0.1,
                "router_jitter_noise": 0.01,
                "router_aux_loss_coef": 0.001,
                "router_z_loss_coef": 0.001,
            },
        ),
    ],
    ids=str,
)
def test_the_published_configuration_is_read(case, published, today, tmp_path):
    write_directory(case, tmp_path / "today", **today)
    write_directory(case, tmp_path / "published")
    (tmp_path / "published" / "config.json").write_text(json.dumps(published))
    with opened(tmp_path / "published", family_of) as source, opened(tmp_path / "today", family_of) as now:
        assert source.config == now.config


def test_options_of_deepseek_are_where_they_belong(tmp_path):
    write_directory(DEEPSEEK, tmp_path)
    with opened(tmp_path, family_of) as source:
        stack = source.config.decoder
        params = source.params(MeshConfig().build())["decoder"]
    assert (stack.head_size, stack.latent.rotary_dim, stack.latent.value_dim) == (8, 4, 6)
    assert (stack.router.groups, stack.router.groups_per_token, stack.router.scale) == (4, 2, 2.5)
    assert (stack.router.bias_rate, stack.router.balance_loss, stack.shared_expert_d_ff) == (0.001, 0.0, 20)
    tensors = load_file(tmp_path / "model.safetensors")
    for layer in (1, 2):
        name = f"model.layers.{layer}.mlp.gate.e_score_correction_bias"
        np.testing.assert_array_equal(params["layers"]["moe"]["bias"][layer - 1], tensors[name])
    # Outputs 8 to 11 of the first head rotate in pairs (8, 9) and (10, 11); here the pairs are (8, 10) and (9, 11).
    theirs = tensors["model.layers.1.self_attn.q_b_proj.weight"].T
    ours = np.asarray(params["layers"]["attention"]["query"]["kernel"][0])
    np.testing.assert_array_equal(ours[:, :12], theirs[:, [*range(8), 8, 10, 9, 11]])


def test_the_module_that_predicts_a_second_token_is_left_out(tmp_path):
    write_directory(DEEPSEEK, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.layers.61.eh_proj.weight"] = np.zeros((32, 64), np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    with opened(tmp_path, family_of) as source:
        assert "model.layers.61.eh_proj.weight" not in {name for tensor in source.wanted for name in (tensor.name,)}


@pytest.mark.parametrize(
    ("case", "options", "message"),
    [
        (DEEPSEEK, {"rope_interleave": False}, r"rope_interleave is False: the rotary coordinates"),
        (DEEPSEEK, {"topk_method": "greedy"}, r"topk_method is 'greedy': experts are chosen by scores with biases"),
        (DEEPSEEK, {"n_group": 3}, r"router.groups is 3, and model.num_experts is 8.*Nearest: 2"),
        (DEEPSEEK, {"topk_group": 5}, r"groups_per_token is 5, more than model.router.groups = 4. Nearest: 4"),
        (DEEPSEEK, {"num_key_value_heads": 2}, r"num_key_value_heads is 2: latent attention has keys for each head"),
        (DEEPSEEK, {"head_dim": 8}, r"head_dim is 8: it is the width of the rotary part"),
        (DEEPSEEK, {"quantization_config": {"quant_method": "fp8"}}, r"quantization_config"),
        (DEEPSEEK, {"first_k_dense_replace": 3}, r"model.first has 3 layers"),
        (SWITCH, {"router_bias": True}, r"router_bias is True: a bias of the router is not supported"),
        (SWITCH, {"feed_forward_proj": "gated-gelu"}, r"feed_forward_proj is 'gated-gelu': dense_act_fn is another"),
        (SWITCH, {"encoder_sparse_step": 4}, r"encoder_sparse_step is 4: num_sparse_encoder_layers gives another"),
        (SWITCH, {"num_selected_experts": 2}, r"num_selected_experts is 2: each token has one expert"),
        (SWITCH, {"expert_capacity": 0}, r"expert_capacity is 0: expected an integer from 1"),
    ],
)
def test_what_the_layers_lack_is_refused_by_name(case, options, message, tmp_path):
    write_directory(case, tmp_path, **options)
    with pytest.raises(UserError, match=message) as caught, opened(tmp_path, family_of):
        pass
    assert "\n" not in str(caught.value)
