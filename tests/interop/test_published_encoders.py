"""Encoders as they were published: their config.json, the names and types of their tensors."""

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from t2t.errors import UserError
from t2t.export.family import canonical
from t2t.export.huggingface import opened
from t2t.models.families import exportable, family_of
from t2t.sharding import MeshConfig
from tests.interop.cases import CASES
from tests.interop.goldens import write_directory

BY_NAME = {case.name: case for case in CASES}
# ModernBERT-base, with its sizes reduced.
MODERNBERT = {
    "architectures": ["ModernBertForMaskedLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 50281,
    "classifier_activation": "gelu",
    "classifier_bias": False,
    "classifier_dropout": 0.0,
    "classifier_pooling": "mean",
    "cls_token_id": 50281,
    "decoder_bias": True,
    "deterministic_flash_attn": False,
    "embedding_dropout": 0.0,
    "eos_token_id": 50282,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160000.0,
    "gradient_checkpointing": False,
    "hidden_activation": "gelu",
    "initializer_cutoff_factor": 2.0,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-05,
    "local_rope_theta": 10000.0,
    "mlp_bias": False,
    "mlp_dropout": 0.0,
    "model_type": "modernbert",
    "norm_bias": False,
    "norm_eps": 1e-05,
    "pad_token_id": 50283,
    "position_embedding_type": "absolute",
    "reference_compile": True,
    "sep_token_id": 50282,
    "sparse_pred_ignore_index": -100,
    "sparse_prediction": False,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "transformers_version": "4.47.0.dev0",
}
# EuroBERT-210m.
EUROBERT = {
    "architectures": ["EuroBertForMaskedLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_eurobert.EuroBertConfig"},
    "bos_token": "<|begin_of_text|>",
    "bos_token_id": 128000,
    "clf_pooling": "late",
    "eos_token": "<|end_of_text|>",
    "eos_token_id": 128001,
    "hidden_act": "silu",
    "hidden_dropout": 0.0,
    "initializer_range": 0.02,
    "mask_token": "<|mask|>",
    "mask_token_id": 128002,
    "mlp_bias": False,
    "model_type": "eurobert",
    "pad_token": "<|end_of_text|>",
    "pad_token_id": 128001,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 250000,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.0.dev0",
    "use_cache": False,
}
# mpnet-base.
MPNET = {
    "architectures": ["MPNetForMaskedLM"],
    "attention_probs_dropout_prob": 0.1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-05,
    "model_type": "mpnet",
    "pad_token_id": 1,
    "relative_attention_num_buckets": 32,
}
# electra-small-generator, electra-small-discriminator.
ELECTRA = {
    "architectures": ["ElectraForMaskedLM"],
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "model_type": "electra",
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "summary_activation": "gelu",
    "summary_last_dropout": 0.1,
    "summary_type": "first",
    "summary_use_proj": True,
    "type_vocab_size": 2,
}
# The names of transformers 5, which these files do not have.
LATER = dict.fromkeys(("layer_types", "rope_parameters", "classifier_pooling"))
AS_PUBLISHED = {
    "ModernBERT masked LM": {**LATER, **MODERNBERT},
    "EuroBERT masked LM": {**LATER, **EUROBERT},
    "EuroBERT label": {
        **LATER,
        **EUROBERT,
        "architectures": ["EuroBertForSequenceClassification"],
        "rope_theta": 10000,
    },
    "MPNet masked LM": MPNET,
    "ELECTRA generator": ELECTRA,
    "ELECTRA discriminator": {**ELECTRA, "architectures": ["ElectraForPreTraining"]},
}


def in_bfloat16(directory):
    """Store the weights in bfloat16, as many fine-tuned models do. Return them in float32."""
    tensors = load_file(directory / "model.safetensors")
    stored = {name: value.astype(ml_dtypes.bfloat16) for name, value in tensors.items()}
    save_file(stored, directory / "model.safetensors")
    return {name: value.astype(np.float32) for name, value in stored.items()}


@pytest.mark.parametrize("name", AS_PUBLISHED)
def test_published_options_give_the_same_model(name, tmp_path):
    case = BY_NAME[name]
    write_directory(case, tmp_path / "today")
    write_directory(case, tmp_path / "published", **AS_PUBLISHED[name])
    stored = in_bfloat16(tmp_path / "published")
    with opened(tmp_path / "published", family_of) as published, opened(tmp_path / "today", family_of) as today:
        assert canonical(published.config) == canonical(today.config)  # without the rates of dropout
        assert not published.left_out
        params = published.params(MeshConfig().build())
    vocabulary = next(value for name, value in stored.items() if "embed" in name and value.shape[0] == 96)
    np.testing.assert_array_equal(params["embeddings"]["token"]["table"], vocabulary)


def test_a_sentence_encoder_is_a_base_model_that_keeps_its_pooler(tmp_path):
    """As all-mpnet-base-v2 is stored: its architecture names the masked-LM head that it does not have."""
    write_directory(BY_NAME["MPNet masked LM"], tmp_path, prefix="mpnet.")
    tensors = load_file(tmp_path / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if not name.startswith("lm_head.")}
    pooler = {"pooler.dense.weight": np.ones((32, 32), np.float32), "pooler.dense.bias": np.ones(32, np.float32)}
    extra = {"embeddings.position_ids": np.arange(26)[None]}
    save_file({**kept, **pooler, **extra}, tmp_path / "model.safetensors")
    with opened(tmp_path, family_of) as source:
        assert set(source.left_out) == set(extra)
        params = source.params(MeshConfig().build())
    assert "transform" not in params
    np.testing.assert_array_equal(params["answer"]["pooler"]["kernel"], pooler["pooler.dense.weight"])
    assert exportable(source.config)[1]["architectures"] == ["MPNetModel"]


def test_a_fine_tuned_discriminator_leaves_its_first_head_out(tmp_path):
    write_directory(BY_NAME["ELECTRA tags"], tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    extra = {"discriminator_predictions.dense.weight": np.ones((32, 32), np.float32)}
    save_file({**tensors, **extra}, tmp_path / "model.safetensors")
    with opened(tmp_path, family_of) as source:
        assert set(source.left_out) == set(extra)
        assert source.config.head == "tags"
        assert not source.config.reference_label


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ModernBERT masked LM", {"embedding_dropout": 0.1}, "embedding_dropout is 0.1: the places of dropout differ"),
        (
            "ModernBERT masked LM",
            {"rope_parameters": {"full_attention": {"rope_type": "yarn", "factor": 4.0}}},
            "rope_parameters.full_attention: rope_type is 'yarn': scaled rotary positions of ModernBERT",
        ),
        ("ModernBERT masked LM", {"layer_types": ["full_attention"]}, r"layer_types is .*: expected 5 of full_att"),
        ("ModernBERT label", {"classifier_pooling": "max"}, "classifier_pooling is 'max': supported are cls, mean"),
        ("EuroBERT masked LM", {"hidden_dropout": 0.1}, "hidden_dropout is 0.1: the places of dropout differ"),
        (
            "EuroBERT label",
            {"classifier_pooling": None, "clf_pooling": "max"},
            "classifier_pooling is 'max': supported",
        ),
        (
            "EuroBERT tags",
            {"architectures": ["EuroBertForQuestionAnswering"]},
            "its head is not supported; supported are EuroBertForSequenceClassification, EuroBertForTokenClassification",
        ),
        (
            "MPNet masked LM",
            {"relative_attention_num_buckets": 64},
            "relative_attention_num_buckets is 64: transformers computes 32 buckets with any value",
        ),
        (
            "ELECTRA discriminator",
            {"hidden_act": "silu"},
            "hidden_act is 'silu': the discriminator's head supports tanh, relu, gelu",
        ),
        (
            "ModernBERT masked LM",
            {"num_hidden_layers": 10**9, "layer_types": None},
            r"config.json: .*layers.*1000000000.*Nearest: 10000",
        ),
    ],
)
def test_options_that_cannot_be_honoured_are_refused_by_name(name, options, message, tmp_path):
    write_directory(BY_NAME[name], tmp_path, **options)
    with pytest.raises(UserError, match=message) as caught, opened(tmp_path, family_of):
        pass
    assert "\n" not in str(caught.value)
