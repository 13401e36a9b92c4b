"""Checkpoints of Qwen 2.5 and 3 as they were published: their config.json with smaller sizes, and tied heads that are stored or not."""

import json

import ml_dtypes
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
TIED2, TIED3 = BY_NAME["Qwen2 2.5: tied"], BY_NAME["Qwen3 tied"]
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "vocab_size": 96,
}

QWEN25 = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_window_layers": 24,
    "model_type": "qwen2",
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.1",
    "use_cache": True,
    "use_mrope": False,
    "use_sliding_window": False,
}
"""Qwen2.5-0.5B, without its sizes."""

QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 16,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_window_layers": 28,
    "model_type": "qwen3",
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": True,
    "use_sliding_window": False,
}
"""Qwen3-0.6B, without its sizes."""


@pytest.mark.parametrize(("case", "published"), [(TIED2, QWEN25), (TIED3, QWEN3)], ids=["2.5", "3"])
@pytest.mark.parametrize("head", [True, False], ids=["head stored", "head missing"])
def test_the_published_configuration_is_read(case, published, head, tmp_path):
    for place in ("today", "published"):
        write_directory(case, tmp_path / place)
    (tmp_path / "published" / "config.json").write_text(json.dumps({**published, **SIZES}))
    file = tmp_path / "published" / "model.safetensors"
    tensors = {name: value.astype(ml_dtypes.bfloat16) for name, value in load_file(file).items()}
    assert "lm_head.weight" not in tensors
    # Qwen3-0.6B and 1.7B store the tied head, Qwen2.5 and Qwen3-4B do not.
    save_file(tensors | ({"lm_head.weight": tensors["model.embed_tokens.weight"].copy()} if head else {}), file)
    with opened(tmp_path / "published", family_of) as source, opened(tmp_path / "today", family_of) as today:
        assert source.config == today.config
        params = source.params(MeshConfig().build())
    bias = params["decoder"]["layers"]["attention"]["query"].get("bias")
    wanted = tensors.get("model.layers.1.self_attn.q_proj.bias")
    assert (bias is None) == (wanted is None)
    if wanted is not None:
        np.testing.assert_array_equal(bias[1], wanted.astype(np.float32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1, "layer_types": None},
            r"max_window_layers is 1: a window in",
        ),
        ({"layer_types": ["full_attention", "sliding_attention"]}, r"layer_types is \[.*a window in only some of the"),
        ({"layer_types": ["full_attention"]}, r"layer_types is \['full_attention'\]: expected a list of 2 layers"),
        ({"layer_types": ["sliding_attention"] * 2}, r"layer_types is .*use_sliding_window and sliding_window give no"),
        ({"use_mrope": True}, r"use_mrope is True: positions in several dimensions"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [2, 2]}, "rope_parameters": None}, r"is 'mrope'"),
    ],
)
def test_what_the_layers_lack_is_refused_by_name(options, message, tmp_path):
    write_directory(TIED2, tmp_path, **options)
    with pytest.raises(UserError, match=message) as caught, opened(tmp_path, family_of):
        pass
    assert "\n" not in str(caught.value)
