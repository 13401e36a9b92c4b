"""Mixtral and Qwen 3 with experts as they were published: their config.json with smaller sizes, their terms, and what is refused."""

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
ONE_MILLION = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}


@pytest.mark.parametrize(("case", "published"), [(MIXTRAL, PUBLISHED_MIXTRAL), (QWEN, PUBLISHED_QWEN)], ids=str)
def test_the_published_configuration_is_read(case, published, tmp_path):
    write_directory(case, tmp_path / "today", **ONE_MILLION)
    write_directory(case, tmp_path / "published")
    (tmp_path / "published" / "config.json").write_text(json.dumps({**published, **SIZES}))
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


@pytest.mark.parametrize(
    ("case", "options", "message"),
    [
        (MIXTRAL, {"router_jitter_noise": 0.1}, r"router_jitter_noise is 0.1: noise on the inputs of experts"),
        (MIXTRAL, {"num_experts_per_tok": 9}, r"experts_per_token is 9, more than model.num_experts = 8"),
        (MIXTRAL, {"num_local_experts": 10**9}, r"num_experts 1000000000 .*Nearest: 1024"),
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
