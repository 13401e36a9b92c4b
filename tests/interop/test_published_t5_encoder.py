"""The encoder of a T5 as text encoders of image models were published: its config.json with smaller sizes, and float16 weights."""

import json

import numpy as np
from safetensors.numpy import load_file, save_file

from t2t.export.huggingface import opened
from t2t.models.families import exportable, family_of
from t2t.models.t5 import encoder_of, t5
from t2t.sharding import MeshConfig
from tests.interop.cases_t5_encoder import CASES
from tests.interop.goldens import write_directory

PUBLISHED = {
    "architectures": ["T5EncoderModel"],
    "classifier_dropout": 0.0,
    "d_ff": 48,
    "d_kv": 8,
    "d_model": 32,
    "decoder_start_token_id": 0,
    "dense_act_fn": "gelu_new",
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "is_gated_act": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "num_decoder_layers": 2,
    "num_heads": 3,
    "num_layers": 2,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_max_distance": 12,
    "relative_attention_num_buckets": 8,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.39.3",
    "use_cache": True,
    "vocab_size": 96,
}
"""The encoder of T5 1.1 XXL in Stable Diffusion 3 and FLUX."""


def test_the_published_configuration_is_read(tmp_path):
    write_directory(CASES[0], tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED))
    tensors = {name: value.astype(np.float16) for name, value in load_file(tmp_path / "model.safetensors").items()}
    tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"].copy()
    save_file(tensors, tmp_path / "model.safetensors")
    with opened(tmp_path, family_of) as source:
        config, params = source.config, source.params(MeshConfig().build())
    whole = t5(num_layers=2, d_model=32, num_heads=3, head_dim=8, d_ff=48, vocab_size=96, buckets=8, max_distance=12)
    assert config.encoder == whole.encoder
    assert config.capabilities == {"predict", "fill_mask", "embed"}
    np.testing.assert_array_equal(params["embeddings"]["token"]["table"], tensors["shared.weight"].astype(np.float32))
    assert exportable(encoder_of(whole))[1]["architectures"] == ["T5EncoderModel"]
    assert params.keys() == encoder_of(whole).build().specs.keys() <= whole.build().specs.keys()
