"""Llama 3.1 and 3.2 as they were published: their config.json with smaller sizes."""

import json

from t2t.export.huggingface import opened
from t2t.models.families import family_of
from t2t.nn.rotary import Rotary
from tests.interop.cases import CASES
from tests.interop.goldens import write_directory

TIED = next(case for case in CASES if case.name == "LLaMA SmolLM2: tied, linear positions")
SCALING = {
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
PUBLISHED = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "head_dim": 8,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": SCALING,
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.45.0.dev0",
    "use_cache": True,
    "vocab_size": 96,
}
"""Llama 3.2 1B Instruct. Llama 3.1 and 3.3 have a factor of 8 and a head of their own."""


def test_the_published_configuration_is_read(tmp_path):
    write_directory(TIED, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED))
    with opened(tmp_path, family_of) as source:
        stack = source.config.decoder
        assert source.config.tied
    assert stack.rotary == Rotary(
        base=500_000.0, scaling="llama3", factor=32.0, low=1.0, high=4.0, original_length=8192
    )
    assert (stack.num_kv_heads, stack.head_dim, stack.norm_epsilon, stack.max_length) == (2, 8, 1e-5, 131_072)
