"""SmolLM3 as it was published: its config.json with smaller sizes, and what is refused."""

import json

import numpy as np
import pytest

from t2t.errors import UserError
from t2t.export.huggingface import opened
from t2t.models.families import family_of
from t2t.sharding import MeshConfig
from tests.interop.cases import CASES
from tests.interop.goldens import write_directory

SMOLLM3 = next(case for case in CASES if case.name == "SmolLM3 as published")
PUBLISHED = {
    "architectures": ["SmolLM3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": 128012,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "layer_types": ["full_attention"] * 4,
    "max_position_embeddings": 64,
    "max_window_layers": 28,
    "mlp_bias": False,
    "model_type": "smollm3",
    "no_rope_layer_interval": 4,
    "no_rope_layers": [1, 1, 1, 0],
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 128004,
    "pretraining_tp": 2,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 5000000.0,
    "sliding_window": None,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.54.0.dev0",
    "use_cache": False,
    "use_sliding_window": False,
    "vocab_size": 96,
}
"""SmolLM3-3B. Without `tie_word_embeddings`, the embeddings are tied."""


def test_the_published_configuration_is_read(tmp_path):
    for place in ("today", "published"):
        found = write_directory(SMOLLM3, tmp_path / place)
    (tmp_path / "published" / "config.json").write_text(json.dumps(PUBLISHED))
    with opened(tmp_path / "published", family_of) as source, opened(tmp_path / "today", family_of) as today:
        assert source.config == today.config
        assert [layer.positions for layer in source.config.decoder.pattern] == [None, None, None, "none"]
        params, read = source.params(MeshConfig().build()), source.read("model.layers.3.mlp.up_proj.weight")
    assert "lm_head.weight" not in found["tensors"]
    np.testing.assert_array_equal(params["decoder"]["layers"]["3"]["mlp"]["up"]["kernel"][0], read.T)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_sliding_window": True}, r"use_sliding_window is True: a window in only some"),
        ({"layer_types": ["sliding_attention"] * 4}, r"layer_types is .*expected 'full_attention' for each of 4"),
        ({"no_rope_layers": [1, 0]}, r"no_rope_layers is \[1, 0\]: expected a list of 4 numbers"),
        ({"no_rope_layers": [1, 1, 1, 2]}, r"no_rope_layers is \[1, 1, 1, 2\]: expected a list of 4 numbers"),
        ({"no_rope_layer_interval": 0}, r"no_rope_layer_interval is 0: expected an integer"),
        ({"num_hidden_layers": 10**9}, r"layers.*1000000000.*Nearest: 10000"),
    ],
)
def test_what_the_layers_lack_is_refused_by_name(options, message, tmp_path):
    write_directory(SMOLLM3, tmp_path, **options)
    with pytest.raises(UserError, match=message) as caught, opened(tmp_path, family_of):
        pass
    assert "\n" not in str(caught.value)
