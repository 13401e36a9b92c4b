"""T5Gemma, T5Gemma 2, LongT5 and FLAN-UL2 as they were published: their config.json with smaller sizes, and what is refused."""

import json

import pytest

from t2t.errors import UserError
from t2t.export.family import canonical
from t2t.export.huggingface import opened
from t2t.models.families import family_of
from tests.interop.cases import CASES
from tests.interop.goldens import write_directory

BY_NAME = {case.name: case for case in CASES}
T5GEMMA, LONG = BY_NAME["T5Gemma as published"], BY_NAME["LongT5 local, as published"]
LONG_GLOBAL = BY_NAME["LongT5 transient-global, as published"]
T5GEMMA2 = BY_NAME["T5Gemma 2 as published"]

MODULE = {
    "add_cross_attention": False,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": 50.0,
    "bos_token_id": 2,
    "classifier_dropout_rate": 0.0,
    "cross_attention_hidden_size": None,
    "dropout_rate": 0.0,
    "final_logit_softcapping": 30.0,
    "head_dim": 8,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "is_decoder": False,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "max_position_embeddings": 64,
    "model_type": "t5_gemma_module",
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "pruned_heads": {},
    "query_pre_attn_scalar": 64,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "sliding_window": 4,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 96,
}
PUBLISHED_T5GEMMA = {
    "architectures": ["T5GemmaForConditionalGeneration"],
    "attention_dropout": 0.0,
    "bos_token_id": 2,
    "classifier_dropout_rate": 0.0,
    "decoder": {**MODULE, "cross_attention_hidden_size": 32, "is_decoder": True},
    "decoder_start_token_id": None,
    "dropout_rate": 0.0,
    "encoder": MODULE,
    "eos_token_id": [1, 107],
    "initializer_range": 0.02,
    "is_encoder_decoder": True,
    "model_type": "t5gemma",
    "pad_token_id": 0,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.54.0.dev0",
    "use_cache": True,
}
"""T5Gemma 2B-2B. Without `tie_word_embeddings`, the head is tied."""
STACK = {
    "_sliding_window_pattern": 6,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": None,
    "dropout_rate": 0.0,
    "dtype": "bfloat16",
    "final_logit_softcapping": None,
    "head_dim": 8,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "layer_types": [*["sliding_attention"] * 5, "full_attention", "sliding_attention"],
    "max_position_embeddings": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 7,
    "num_key_value_heads": 2,
    "query_pre_attn_scalar": 64,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {
        "full_attention": {"factor": 8.0, "rope_theta": 1000000, "rope_type": "linear"},
        "sliding_attention": {"rope_theta": 10000, "rope_type": "default"},
    },
    "sliding_window": 4,
    "use_bidirectional_attention": False,
    "use_cache": True,
    "vocab_size": 96,
}
PUBLISHED_T5GEMMA2 = {
    "architectures": ["T5Gemma2ForConditionalGeneration"],
    "attention_dropout": 0.0,
    "bos_token_id": 2,
    "classifier_dropout_rate": 0.0,
    "decoder": {**STACK, "model_type": "t5gemma2_decoder"},
    "dropout_rate": 0.0,
    "dtype": "bfloat16",
    "encoder": {
        "attention_dropout": 0.0,
        "boi_token_index": 255999,
        "dropout_rate": 0.0,
        "dtype": "bfloat16",
        "eoi_token_index": 256000,
        "image_token_index": 256001,
        "initializer_range": 0.02,
        "mm_tokens_per_image": 256,
        "model_type": "t5gemma2_encoder",
        "text_config": {
            **STACK,
            "add_cross_attention": False,
            "chunk_size_feed_forward": 0,
            "is_decoder": False,
            "model_type": "t5gemma2_text",
            "tie_word_embeddings": True,
        },
        "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model", "num_hidden_layers": 27},
        "vocab_size": 96,
    },
    "eoi_token_index": 256000,
    "eos_token_id": 1,
    "image_token_index": 256001,
    "initializer_range": 0.02,
    "is_encoder_decoder": True,
    "model_type": "t5gemma2",
    "pad_token_id": 0,
    "transformers_version": "5.0.0.dev0",
    "vocab_size": 96,
}
"""T5Gemma 2 270M-270M."""
T5 = {
    "d_ff": 48,
    "d_kv": 8,
    "d_model": 32,
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "is_gated_act": True,
    "layer_norm_epsilon": 1e-06,
    "num_heads": 3,
    "num_layers": 2,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_max_distance": 12,
    "relative_attention_num_buckets": 8,
    "tie_word_embeddings": False,
    "use_cache": True,
    "vocab_size": 96,
}
PUBLISHED_LONG = {
    **T5,
    "architectures": ["LongT5ForConditionalGeneration"],
    "dense_act_fn": "gelu_new",
    "dropout_rate": 0.1,
    "encoder_attention_type": "local",
    "feed_forward_proj": "gated-gelu",
    "global_block_size": 16,
    "local_radius": 2,
    "model_type": "longt5",
    "n_positions": 4096,
    "num_decoder_layers": 2,
    "transformers_version": "4.20.0.dev0",
}
"""long-t5-local-base."""
PUBLISHED_LONG_GLOBAL = {**PUBLISHED_LONG, "encoder_attention_type": "transient-global", "global_block_size": 4}
"""long-t5-tglobal-base, large and xl."""
FLAN_UL2 = {
    **T5,
    "architectures": ["T5ForConditionalGeneration"],
    "dense_act_fn": "silu",
    "dropout_rate": 0.0,
    "feed_forward_proj": "gated-silu",
    "model_type": "t5",
    "n_positions": 512,
    "num_decoder_layers": 3,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.25.0.dev0",
}
"""flan-ul2."""


@pytest.mark.parametrize(
    ("case", "published"),
    [
        (T5GEMMA, PUBLISHED_T5GEMMA),
        (T5GEMMA2, PUBLISHED_T5GEMMA2),
        (LONG, PUBLISHED_LONG),
        (LONG_GLOBAL, PUBLISHED_LONG_GLOBAL),
        (BY_NAME["T5 gated SiLU, deeper decoder"], FLAN_UL2),
    ],
    ids=["T5Gemma", "T5Gemma 2", "LongT5", "LongT5 transient-global", "FLAN-UL2"],
)
def test_the_published_configuration_is_read(case, published, tmp_path):
    for place in ("today", "published"):
        write_directory(case, tmp_path / place)
    (tmp_path / "published" / "config.json").write_text(json.dumps(published))
    with opened(tmp_path / "published", family_of) as source, opened(tmp_path / "today", family_of) as today:
        assert canonical(source.config) == canonical(today.config)


@pytest.mark.parametrize(
    ("case", "options", "message"),
    [
        (T5GEMMA, {"is_encoder_decoder": False}, r"is_encoder_decoder is False: an encoder alone"),
        (T5GEMMA, {"encoder": {**MODULE, "vocab_size": 95}}, r"encoder: vocab_size is 95: encoder and decoder must"),
        (
            T5GEMMA,
            {"decoder": {**MODULE, "cross_attention_hidden_size": 16}},
            r"decoder: cross_attention_hidden_size is 16",
        ),
        (T5GEMMA, {"encoder": {**MODULE, "flavour": 1}}, r"encoder: unknown option flavour = 1"),
        (LONG, {"encoder_attention_type": "full"}, r"is 'full': expected local or transient-global"),
        (LONG_GLOBAL, {"global_block_size": 0}, r"global_block_size is 0: expected an integer from 1"),
        (T5GEMMA2, {"tie_word_embeddings": False}, r"tie_word_embeddings is False: encoder, decoder and head"),
        (
            T5GEMMA2,
            {"decoder": {**STACK, "attn_logit_softcapping": 50.0}},
            r"decoder: attn_logit_softcapping is 50.0: transformers does not apply it",
        ),
        (T5GEMMA2, {"decoder": {**STACK, "flavour": 1}}, r"decoder: unknown option flavour = 1"),
        (LONG, {"local_radius": 0}, r"local_radius is 0: expected an integer from 1"),
    ],
)
def test_options_that_cannot_be_honoured_are_refused_by_name(case, options, message, tmp_path):
    write_directory(case, tmp_path, **options)
    with pytest.raises(UserError, match=message) as caught, opened(tmp_path, family_of):
        pass
    assert "\n" not in str(caught.value)
