"""Mamba and Mamba-2 as they were published: their config.json with smaller sizes, their tensors, and what is refused."""

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
MAMBA, MAMBA2 = BY_NAME["Mamba as published"], BY_NAME["Mamba-2 as published"]
GROUPS = BY_NAME["Mamba-2 groups, separate head, no biases, wide, chunks of 4"]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "vocab_size": 96, "intermediate_size": 64}
PUBLISHED_MAMBA = {
    "architectures": ["MambaForCausalLM"],
    "bos_token_id": 0,
    "conv_kernel": 4,
    "d_inner": 64,
    "d_model": 32,
    "eos_token_id": 0,
    "expand": 2,
    "fused_add_norm": True,
    "hidden_act": "silu",
    "initializer_range": 0.1,
    "layer_norm_epsilon": 1e-05,
    "model_type": "mamba",
    "n_layer": 2,
    "pad_token_id": 0,
    "pad_vocab_size_multiple": 8,
    "rescale_prenorm_residual": False,
    "residual_in_fp32": True,
    "rms_norm": True,
    "ssm_cfg": {},
    "time_step_floor": 0.0001,
    "time_step_init_scheme": "random",
    "time_step_max": 0.1,
    "time_step_min": 0.001,
    "time_step_rank": 2,
    "time_step_scale": 1.0,
    "torch_dtype": "float32",
    "transformers_version": "4.39.0.dev0",
    "use_bias": False,
    "use_cache": True,
    "use_conv_bias": True,
}
"""state-spaces/mamba-130m-hf, without its sizes."""
PUBLISHED_MAMBA2 = {
    "architectures": ["Mamba2ForCausalLM"],
    "bos_token_id": 0,
    "chunk_size": 256,
    "conv_kernel": 4,
    "eos_token_id": 0,
    "expand": 2,
    "head_dim": 8,
    "hidden_act": "silu",
    "initializer_range": 0.1,
    "layer_norm_epsilon": 1e-05,
    "model_type": "mamba2",
    "n_groups": 1,
    "norm_before_gate": True,
    "num_heads": 8,
    "pad_token_id": 0,
    "rescale_prenorm_residual": False,
    "residual_in_fp32": True,
    "rms_norm": True,
    "tie_word_embeddings": True,
    "time_step_floor": 0.0001,
    "time_step_init_scheme": "random",
    "time_step_limit": [0.0, float("inf")],
    "time_step_max": 0.1,
    "time_step_min": 0.001,
    "time_step_rank": 2,
    "time_step_scale": 1.0,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.44.0.dev0",
    "use_bias": False,
    "use_cache": True,
    "use_conv_bias": True,
}
"""Mamba-Codestral-7B-v0.1, without its sizes, and with one group and a tied head, as the smaller models have."""


@pytest.mark.parametrize(("case", "published"), [(MAMBA, PUBLISHED_MAMBA), (MAMBA2, PUBLISHED_MAMBA2)], ids=str)
def test_the_published_configuration_is_read(case, published, tmp_path):
    write_directory(case, tmp_path / "today")
    write_directory(case, tmp_path / "published")
    (tmp_path / "published" / "config.json").write_text(json.dumps({**published, **SIZES}))
    with opened(tmp_path / "published", family_of) as source, opened(tmp_path / "today", family_of) as today:
        assert source.config == today.config


def test_the_parts_of_a_joined_product_and_of_its_convolution_are_in_the_order_of_the_papers(tmp_path):
    write_directory(GROUPS, tmp_path)
    with opened(tmp_path, family_of) as source:
        mixer = source.params(MeshConfig().build())["decoder"]["layers"]["mamba2"]
    tensors = load_file(tmp_path / "model.safetensors")
    inner, shared, heads = 96, 4 * 8, 12
    ends = np.cumsum([inner, inner, shared, shared, heads])
    joined = np.split(tensors["backbone.layers.1.mixer.in_proj.weight"], ends[:-1])
    for name, wanted in zip(("gate", "x", "b", "c", "dt"), joined, strict=True):
        np.testing.assert_array_equal(mixer[name]["kernel"][1], wanted.T)
    filters = tensors["backbone.layers.1.mixer.conv1d.weight"]
    assert filters.shape == (inner + 2 * shared, 1, 3)
    np.testing.assert_array_equal(mixer["b_convolution"]["filter"][1], filters[inner : inner + shared, 0].T)


def test_the_name_of_the_embeddings_in_the_original_code_is_read(tmp_path):
    write_directory(MAMBA2, tmp_path / "new")
    write_directory(MAMBA2, tmp_path / "old")
    tensors = load_file(tmp_path / "old" / "model.safetensors")
    tensors["backbone.embedding.weight"] = tensors.pop("backbone.embeddings.weight")
    save_file(tensors, tmp_path / "old" / "model.safetensors")
    with opened(tmp_path / "new", family_of) as source:
        wanted = source.params(MeshConfig().build())["embeddings"]["token"]["table"]
    with opened(tmp_path / "old", family_of) as source:
        np.testing.assert_array_equal(source.params(MeshConfig().build())["embeddings"]["token"]["table"], wanted)


@pytest.mark.parametrize(
    ("case", "options", "message"),
    [
        (MAMBA, {"hidden_act": "gelu"}, r"hidden_act is 'gelu': only 'silu' is supported"),
        (MAMBA, {"intermediate_size": 65}, r"intermediate_size is 65: it must be expand \* hidden_size; only 64"),
        (MAMBA, {"time_step_rank": "large"}, r"time_step_rank is 'large': expected a number"),
        (MAMBA, {"time_step_min": 0.5}, r"time_steps.low is 0.5, more than"),
        (MAMBA2, {"num_heads": 7}, r"num_heads is 7: num_heads \* head_dim must be expand \* hidden_size = 64"),
        (MAMBA2, {"n_groups": 3}, r"groups is 3, which does not divide mixer.num_heads = 8"),
        (MAMBA2, {"time_step_limit": [0.0, 0.1]}, r"time_step_limit is \[0.0, 0.1\]: a limit of time steps"),
        (MAMBA2, {"use_mem_eff_path": True}, r"unknown option use_mem_eff_path"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(case, options, message, tmp_path):
    write_directory(case, tmp_path, **options)
    with pytest.raises(UserError, match=message) as caught, opened(tmp_path, family_of):
        pass
    assert "\n" not in str(caught.value)
