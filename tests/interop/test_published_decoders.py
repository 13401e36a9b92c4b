"""OLMo 2 and 3, Phi-3 and 4, and Pythia as they were published: their config.json with smaller sizes, and what is refused."""

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
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "num_attention_heads": 4,
    "vocab_size": 96,
}
OLMO2 = {
    **SIZES,
    "architectures": ["Olmo2ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "eos_token_id": 100257,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "model_type": "olmo2",
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "pad_token_id": 100277,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 500000,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": "4.47.0.dev0",
    "use_cache": True,
}
"""OLMo-2-1124-7B."""
OLMO3 = {
    **OLMO2,
    "architectures": ["Olmo3ForCausalLM"],
    "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
    "model_type": "olmo3",
    "num_hidden_layers": 4,
    "rope_scaling": {
        "attention_factor": 0.8,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 8.0,
        "original_max_position_embeddings": 8,
        "rope_type": "yarn",
    },
    "sliding_window": 4,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.57.0.dev0",
    "use_cache": False,
}
"""Olmo-3-1025-7B."""
PHI3 = {
    **SIZES,
    "architectures": ["Phi3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_phi3.Phi3Config",
        "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
    },
    "bos_token_id": 1,
    "embd_pdrop": 0.0,
    "eos_token_id": 32000,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "model_type": "phi3",
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "original_max_position_embeddings": 64,
    "pad_token_id": 32000,
    "resid_pdrop": 0.0,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "sliding_window": 4,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.2",
    "use_cache": True,
}
"""Phi-3-mini-4k-instruct."""
FACTORS = {"short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5], "long_factor": [1, 2.0, 3.0, 4.0, 5.0, 6.0]}
PHI4_MINI = {
    **PHI3,
    "full_attn_mod": 1,
    "interpolate_factor": 1,
    "lm_head_bias": False,
    "mlp_bias": False,
    "num_key_value_heads": 2,
    "original_max_position_embeddings": 4,
    "partial_rotary_factor": 0.75,
    "rope_scaling": {**FACTORS, "type": "longrope"},
    "sliding_window": 32,
    "tie_word_embeddings": True,
    "transformers_version": "4.45.0",
}
"""Phi-4-mini-instruct."""
_PHI4_MINI = "Phi-3 4-mini: tied, longrope, partial positions"
PYTHIA = {
    **SIZES,
    "architectures": ["GPTNeoXForCausalLM"],
    "bos_token_id": 0,
    "eos_token_id": 0,
    "hidden_act": "gelu",
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-05,
    "model_type": "gpt_neox",
    "num_hidden_layers": 2,
    "rotary_emb_base": 10000,
    "rotary_pct": 0.25,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.24.0",
    "use_cache": True,
    "use_parallel_residual": True,
}
"""Pythia-70m."""


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("OLMo 2 as published", OLMO2),
        ("OLMo 3 as published", OLMO3),
        ("Phi-3 as published", PHI3),
        (_PHI4_MINI, PHI4_MINI),
        (_PHI4_MINI, {**PHI4_MINI, "rope_scaling": {**FACTORS, "type": "su"}}),
        ("GPT-NeoX Pythia as published", PYTHIA),
    ],
    ids=["OLMo 2", "OLMo 3", "Phi-3", "Phi-4-mini", "su", "Pythia"],
)
def test_the_published_configuration_is_read(name, published, tmp_path):
    for place in ("today", "published"):
        write_directory(BY_NAME[name], tmp_path / place)
    (tmp_path / "published" / "config.json").write_text(json.dumps(published))
    with opened(tmp_path / "published", family_of) as source, opened(tmp_path / "today", family_of) as today:
        assert source.config == today.config


def test_masks_and_frequencies_that_pythia_stores_are_left_out(tmp_path):
    write_directory(BY_NAME["GPT-NeoX Pythia as published"], tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    layer = "gpt_neox.layers.0.attention."
    tensors |= {f"{layer}bias": np.ones((1, 1, 8, 8), np.uint8), f"{layer}masked_bias": np.array(-1e9, np.float32)}
    save_file({**tensors, f"{layer}rotary_emb.inv_freq": np.ones(1, np.float32)}, tmp_path / "model.safetensors")
    with opened(tmp_path, family_of) as source:
        kernel = source.params(MeshConfig().build())["decoder"]["layers"]["attention"]["key"]["kernel"]
    assert sorted(source.left_out) == sorted(
        f"{layer}{name}" for name in ("bias", "masked_bias", "rotary_emb.inv_freq")
    )
    # Heads of 8 queries, 8 keys and 8 values.
    np.testing.assert_array_equal(kernel[0][:, 8:16], tensors[f"{layer}query_key_value.weight"][32:40].T)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("OLMo 2 as published", {"clip_qkv": 8.0}, r"unknown option clip_qkv = 8.0"),
        ("OLMo 2 as published", {"sliding_window": 8}, r"unknown option sliding_window = 8"),
        ("OLMo 3 as published", {"layer_types": ["full_attention"]}, r"layer_types is .*expected a list of 4 names"),
        ("OLMo 3 as published", {"rope_parameters": {"rope_type": "yarn"}}, r"rope_parameters is 'rope_type'"),
        ("Phi-3 as published", {"mlp_bias": True}, r"mlp_bias is True: transformers has no biases in Phi-3"),
        ("Phi-3 as published", {"embd_pdrop": 0.5}, r"embd_pdrop is 0.5: the embeddings and the residual stream"),
        (
            "Phi-3 as published",
            {"rope_parameters": {"rope_type": "linear"}},
            r"rope_scaling is 'linear': supported are",
        ),
        (
            _PHI4_MINI,
            {"partial_rotary_factor": 0.45, "rope_parameters": None},
            r"rotary.share 0.45 of model.head_dim 16",
        ),
    ],
)
def test_what_the_layers_lack_is_refused_by_name(name, options, message, tmp_path):
    write_directory(BY_NAME[name], tmp_path, **options)
    with pytest.raises(UserError, match=message) as caught, opened(tmp_path, family_of):
        pass
    assert "\n" not in str(caught.value)
