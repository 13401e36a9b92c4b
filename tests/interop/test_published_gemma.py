"""Checkpoints of Gemma as they were published: the options of their config.json at a small size, and what must be refused."""

import json

import jax
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
GEMMA2, GEMMA3 = BY_NAME["Gemma 2 as published"], BY_NAME["Gemma 3 4B: linear positions"]
# What transformers 5 writes and the published files do not have.
LATER = dict.fromkeys(("layer_types", "rope_parameters", "use_bidirectional_attention", "tie_word_embeddings"))

PUBLISHED = {
    "gemma-2-9b": (
        GEMMA2,
        {
            **LATER,
            "_attn_implementation": "eager",
            "cache_implementation": "hybrid",
            "hidden_act": "gelu_pytorch_tanh",
            "rope_theta": 10000.0,
            "sliding_window_size": 4,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.42.0.dev0",
        },
    ),
    "gemma-3-4b, its text_config": (
        GEMMA3,
        {
            **LATER,
            "cache_implementation": "hybrid",
            "rope_local_base_freq": 10000.0,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "rope_theta": 1000000.0,
            "sliding_window_pattern": 6,
        },
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_options_as_published_change_nothing(name, tmp_path):
    case, options = PUBLISHED[name]
    write_directory(case, tmp_path / "today")
    write_directory(case, tmp_path / "published", **options)
    with opened(tmp_path / "published", family_of) as published, opened(tmp_path / "today", family_of) as today:
        assert published.config == today.config


@pytest.mark.parametrize("before", ["language_model.model.", "model.language_model."])
def test_of_a_model_with_images_the_text_model_is_read(before, tmp_path):
    found = write_directory(GEMMA3, tmp_path / "text")
    text = found["config"] | PUBLISHED["gemma-3-4b, its text_config"][1]
    options = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": text}
    options |= {"boi_token_index": 90, "eoi_token_index": 91, "image_token_index": 92, "mm_tokens_per_image": 256}
    options |= {"eos_token_id": [1, 4], "initializer_range": 0.02, "vision_config": {"hidden_size": 1152}}
    tensors = load_file(tmp_path / "text" / "model.safetensors")
    tensors = {name.replace("model.", before, 1): value for name, value in tensors.items()}
    images = "vision_tower.vision_model.post_layernorm.weight"
    images = images if before.startswith("language") else f"model.{images}"
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "config.json").write_text(json.dumps(options))
    save_file({**tensors, images: np.ones(8, np.float32)}, tmp_path / "images" / "model.safetensors")
    params = []
    for name in ("text", "images"):
        with opened(tmp_path / name, family_of) as source:
            params.append(source.params(MeshConfig().build()))
    assert dict(source.left_out) == {images: "the encoder of images"}
    jax.tree.map(np.testing.assert_array_equal, *params)


@pytest.mark.parametrize(
    ("case", "options", "message"),
    [
        (GEMMA2, {"use_bidirectional_attention": True}, r"use_bidirectional_attention is True"),
        (GEMMA2, {"layer_types": ["full_attention"]}, r"layer_types is .*expected a list of 3 names"),
        (GEMMA2, {"layer_types": ["chunked_attention"] * 3}, r"layer_types is 'chunked_attention'"),
        (GEMMA2, {"query_pre_attn_scalar": 0}, r"query_pre_attn_scalar is 0: expected a positive number"),
        (GEMMA2, {"num_hidden_layers": 1000, "layer_types": None}, r"1000 layers .*the weights have only \d+ tensors"),
        (GEMMA3, {"attn_logit_softcapping": 50.0}, r"attn_logit_softcapping is 50.0: transformers does not apply it"),
        (GEMMA3, {"rope_parameters": {"rope_type": "default"}}, r"rope_parameters is 'rope_type': expected sliding"),
    ],
)
def test_options_that_cannot_be_honoured_are_refused_by_name(case, options, message, tmp_path):
    write_directory(case, tmp_path, **options)
    with pytest.raises(UserError, match=message) as caught, opened(tmp_path, family_of):
        pass
    assert "\n" not in str(caught.value)
