"""Mixtral, Qwen 3 with experts and Qwen3-Next as they were published: their config.json with smaller sizes, their terms, and what is refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from t2t.errors import UserError
from t2t.export.huggingface import opened
from t2t.models.families import family_of
from t2t.sharding import MeshConfig
from tests.interop.cases import CASES
from tests.interop.goldens import write_directory

BY_NAME = {case.name: case for case in CASES}
MIXTRAL, QWEN = BY_NAME["Mixtral as published"], BY_NAME["Qwen3 MoE as published"]
NEXT = BY_NAME["Qwen3-Next larger epsilon"]
SOME = BY_NAME["Qwen3 MoE some layers, unnormalized, biases"]
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "router_aux_loss_coef": 0.1,
    "vocab_size": 96,
}
PUBLISHED_MIXTRAL = {
    "architectures": ["MixtralForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "model_type": "mixtral",
    "num_experts_per_tok": 2,
    "num_local_experts": 8,
    "output_router_logits": False,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.36.0.dev0",
    "use_cache": True,
}
"""Mixtral-8x7B-v0.1, without its sizes."""
PUBLISHED_QWEN = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "decoder_sparse_step": 1,
    "eos_token_id": 151645,
    "head_dim": 16,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_window_layers": 48,
    "mlp_only_layers": [],
    "model_type": "qwen3_moe",
    "moe_intermediate_size": 20,
    "norm_topk_prob": True,
    "num_experts": 8,
    "num_experts_per_tok": 4,
    "output_router_logits": False,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": True,
    "use_sliding_window": False,
}
"""Qwen3-30B-A3B, without its sizes."""
PUBLISHED_NEXT = {
    "architectures": ["Qwen3NextForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "decoder_sparse_step": 1,
    "eos_token_id": 151645,
    "full_attention_interval": 4,
    "head_dim": 16,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_value_head_dim": 6,
    "mlp_only_layers": [],
    "model_type": "qwen3_next",
    "moe_intermediate_size": 20,
    "norm_topk_prob": True,
    "num_experts": 8,
    "num_experts_per_tok": 4,
    "output_router_logits": False,
    "partial_rotary_factor": 0.25,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000000,
    "shared_expert_intermediate_size": 24,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.57.0.dev0",
    "use_cache": True,
    "use_sliding_window": False,
}
"""Qwen3-Next-80B-A3B-Instruct, without its sizes."""


@pytest.mark.parametrize(
    ("case", "published", "rotary"),
    [
        (MIXTRAL, PUBLISHED_MIXTRAL, {"rope_theta": 1e6}),
        (QWEN, PUBLISHED_QWEN, {"rope_theta": 1e6}),
        (NEXT, PUBLISHED_NEXT, {"rope_theta": 1e7, "partial_rotary_factor": 0.25}),
    ],
    ids=["mixtral", "qwen", "next"],
)
def test_the_published_configuration_is_read(case, published, rotary, tmp_path):
    write_directory(case, tmp_path / "today", rope_parameters={"rope_type": "default", **rotary})
    write_directory(case, tmp_path / "published")
    sizes = {**SIZES, "num_hidden_layers": case.options["num_hidden_layers"]}
    sizes["rms_norm_eps"] = case.options.get("rms_norm_eps", published["rms_norm_eps"])
    (tmp_path / "published" / "config.json").write_text(json.dumps({**published, **sizes}))
    with opened(tmp_path / "published", family_of) as source, opened(tmp_path / "today", family_of) as today:
        assert source.config == today.config
        assert source.config.decoder.router.balance_loss == 0.1


def test_the_kernels_of_experts_are_those_of_their_names(tmp_path):
    write_directory(SOME, tmp_path)
    with opened(tmp_path, family_of) as source:
        params = source.params(MeshConfig().build())["decoder"]
    tensors = load_file(tmp_path / "model.safetensors")
    # Layer 1 alone of five has experts: 0, 2 and 4 are not in the step, and 3 is listed.
    layers = [source.config.decoder.places[layer % len(source.config.decoder.places)] for layer in range(5)]
    assert [place.num_experts for place in layers] == [0, None, 0, 0, 0]
    experts = params["layers"]["1"]["moe"]
    for name in ("gate", "up", "down"):
        wanted = np.stack([tensors[f"model.layers.1.mlp.experts.{one}.{name}_proj.weight"].T for one in range(4)])
        np.testing.assert_array_equal(experts[name][0], wanted)
    np.testing.assert_array_equal(experts["router"][0], tensors["model.layers.1.mlp.gate.weight"].T)


def test_products_of_the_delta_rule_are_joined_by_the_heads_of_keys(tmp_path):
    write_directory(NEXT, tmp_path)
    with opened(tmp_path, family_of) as source:
        layers = source.params(MeshConfig().build())["decoder"]["layers"]
    assert [sorted(set(layers[place]) & {"attention", "gated_delta_net"}) for place in "0123"] == [
        *[["gated_delta_net"]] * 3,
        ["attention"],
    ]
    tensors = load_file(tmp_path / "model.safetensors")
    theirs, ours = tensors["model.layers.1.linear_attn.in_proj_qkvz.weight"], layers["1"]["gated_delta_net"]
    # Two heads of keys: each has 8 rows of queries, 8 of keys, and two heads of 6 rows of values and of gates.
    head = theirs[40:80]
    for name, rows in (("query", head[:8]), ("key", head[8:16]), ("value", head[16:28]), ("gate", head[28:])):
        kernel = np.asarray(ours[name]["kernel"][0])
        np.testing.assert_array_equal(kernel[:, kernel.shape[1] // 2 :], rows.T)
    filters = tensors["model.layers.1.linear_attn.conv1d.weight"][:, 0].T
    np.testing.assert_array_equal(ours["key_convolution"]["filter"][0], filters[:, 16:32])
    gated = tensors["model.layers.3.self_attn.q_proj.weight"].reshape(4, 2, 16, 32)
    gate = np.asarray(layers["3"]["attention"]["gate"]["kernel"][0])
    np.testing.assert_array_equal(gate.T.reshape(4, 16, 32), gated[:, 1])


@pytest.mark.parametrize(
    ("case", "options", "message"),
    [
        (NEXT, {"hidden_act": "gelu"}, r"hidden_act is 'gelu': other activations of the convolutions"),
        (
            NEXT,
            {"layer_types": ["linear_attention"] * 3},
            r"layer_types is .*: expected a list of 4 of linear_attention",
        ),
        (NEXT, {"linear_num_key_heads": 3}, r"num_key_heads is 3 .*does not divide num_heads = 4"),
        (NEXT, {"mlp_only_layers": [0, 1, 2, 3]}, r"no layer has experts"),
        (MIXTRAL, {"router_jitter_noise": 0.1}, r"router_jitter_noise is 0.1: noise on the inputs of experts"),
        (MIXTRAL, {"num_experts_per_tok": 9}, r"experts_per_token is 9, more than model.num_experts = 8"),
        (MIXTRAL, {"num_local_experts": 10**9}, r"num_experts 1000000000 .*Nearest: 16384"),
        (QWEN, {"mlp_only_layers": [0, 1]}, r"decoder_sparse_step is 1: no layer has experts"),
        (QWEN, {"mlp_only_layers": "none"}, r"mlp_only_layers is 'none': expected a list"),
        (QWEN, {"moe_intermediate_size": 0}, r"moe_intermediate_size is 0: expected an integer"),
        (QWEN, {"shared_expert_intermediate_size": 64}, r"unknown option shared_expert_intermediate_size"),
    ],
)
def test_what_the_layers_lack_is_refused_by_name(case, options, message, tmp_path):
    write_directory(case, tmp_path, **options)
    with pytest.raises(UserError, match=message) as caught, opened(tmp_path, family_of):
        pass
    assert "\n" not in str(caught.value)
