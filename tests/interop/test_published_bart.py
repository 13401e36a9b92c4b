"""BART and its families as published: options, names and copies of tensors, the start of generated texts, and what is refused."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer as Library
from tokenizers import models, pre_tokenizers, processors

from t2t.errors import UserError
from t2t.export.generation_files import Generation, generation_config
from t2t.export.huggingface import opened
from t2t.export.tokenizer_files import added_before, read_vocabulary
from t2t.export.tokenizer_json import framed
from t2t.models.families import family_of
from t2t.sharding import MeshConfig
from tests.interop.cases_bart import CASES
from tests.interop.goldens import write_directory

SPECIAL = [("</s>", 2), ("w9", 13)]
BY_NAME = {case.name: case for case in CASES}
BART, MBART, PEGASUS, MARIAN = (BY_NAME[f"{family} as published"] for family in ("BART", "mBART", "PEGASUS", "Marian"))

LARGE_CNN = {
    "_num_labels": 3,
    "activation_dropout": 0.0,
    "add_bias_logits": False,
    "add_final_layer_norm": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "classif_dropout": 0.0,
    "classifier_dropout": 0.0,
    "decoder_layerdrop": 0.0,
    "decoder_start_token_id": 2,
    "early_stopping": True,
    "encoder_layerdrop": 0.0,
    "eos_token_id": 2,
    "extra_pos_embeddings": 2,
    "force_bos_token_to_be_generated": True,
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 2,
    "gradient_checkpointing": False,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"},
    "length_penalty": 2.0,
    "max_length": 142,
    "min_length": 56,
    "no_repeat_ngram_size": 3,
    "normalize_before": False,
    "normalize_embedding": True,
    "num_beams": 4,
    "num_hidden_layers": 2,
    "output_past": True,
    "pad_token_id": 1,
    "prefix": " ",
    "replacing_rate": 0,
    "save_step": 17,
    "static_position_embeddings": False,
    "student_decoder_layers": None,
    "student_encoder_layers": None,
    "task_specific_params": {"summarization": {"num_beams": 4}},
    "torch_dtype": "float32",
}
"""Options of facebook/bart-large-cnn and sshleifer/distilbart-cnn-12-6, with the number of layers of the case."""

MBART_50 = {
    "_num_labels": 3,
    "add_bias_logits": False,
    "add_final_layer_norm": True,
    "classif_dropout": 0.0,
    "decoder_layerdrop": 0.0,
    "decoder_start_token_id": 2,
    "early_stopping": True,
    "encoder_layerdrop": 0.0,
    "forced_eos_token_id": 2,
    "gradient_checkpointing": False,
    "max_length": 200,
    "normalize_before": True,
    "normalize_embedding": True,
    "num_beams": 5,
    "num_hidden_layers": 2,
    "output_past": True,
    "static_position_embeddings": False,
    "task_specific_params": {"translation_en_to_ro": {"decoder_start_token_id": 250020}},
    "tokenizer_class": "MBart50Tokenizer",
}
"""Options of facebook/mbart-large-cc25 and mbart-large-50-many-to-one-mmt, with the number of layers of the case."""

PEGASUS_LARGE = {
    "add_bias_logits": False,
    "add_final_layer_norm": True,
    "classif_dropout": 0.0,
    "classifier_dropout": 0.0,
    "decoder_layerdrop": 0.0,
    "decoder_start_token_id": 0,
    "encoder_layerdrop": 0.0,
    "extra_pos_embeddings": 1,
    "force_bos_token_to_be_generated": False,
    "forced_eos_token_id": 1,
    "gradient_checkpointing": False,
    "length_penalty": 0.8,
    "max_length": 256,
    "normalize_before": True,
    "normalize_embedding": False,
    "num_beams": 8,
    "num_hidden_layers": 2,
    "static_position_embeddings": True,
    "task_specific_params": {"summarization_xsum": {"length_penalty": 0.6, "max_length": 64}},
}
"""Options of google/pegasus-large and pegasus-xsum, with the number of layers of the case."""

OPUS_MT = {
    "_num_labels": 3,
    "add_bias_logits": False,
    "add_final_layer_norm": False,
    "bad_words_ids": [[95]],
    "bos_token_id": 0,
    "classif_dropout": 0.0,
    "classifier_dropout": 0.0,
    "decoder_layerdrop": 0.0,
    "decoder_start_token_id": 95,
    "decoder_vocab_size": 96,
    "encoder_layerdrop": 0.0,
    "eos_token_id": 0,
    "extra_pos_embeddings": 96,
    "forced_eos_token_id": 0,
    "max_length": 512,
    "normalize_before": False,
    "normalize_embedding": False,
    "num_beams": 4,
    "num_hidden_layers": 2,
    "pad_token_id": 95,
    "share_encoder_decoder_embeddings": True,
    "static_position_embeddings": True,
}
"""Options of Helsinki-NLP/opus-mt-en-de, with the number of layers and the vocabulary of the case."""


def read(directory):
    with opened(directory, family_of) as source:
        return source.config, source.params(MeshConfig().build()), dict(source.left_out)


def base_model(tensors):
    """facebook/bart-base and bart-large were saved as BartModel, with copies of the table and without a bias of the logits."""
    table = tensors["model.shared.weight"]
    tensors |= {f"model.{side}.embed_tokens.weight": table.copy() for side in ("encoder", "decoder")}
    del tensors["final_logits_bias"]
    return {name.removeprefix("model."): value for name, value in tensors.items()}


def test_bart_as_published_is_read(tmp_path):
    write_directory(BART, tmp_path / "today")
    write_directory(BART, tmp_path / "published", **LARGE_CNN)
    config, params, _ = read(tmp_path / "today")
    same, again, _ = read(tmp_path / "published")
    assert same == config
    jax.tree.map(np.testing.assert_array_equal, again, params)

    file = tmp_path / "published" / "model.safetensors"
    save_file({**base_model(load_file(file)), "encoder.version": np.ones(1, np.float32)}, file)
    same, again, left_out = read(tmp_path / "published")
    assert (config.head_bias, same.head_bias) == (True, False)
    assert list(left_out) == ["encoder.version"]
    jax.tree.map(np.testing.assert_array_equal, again, {name: x for name, x in params.items() if name != "lm_head"})


def test_mbart_as_published_is_read(tmp_path):
    write_directory(MBART, tmp_path / "today")
    write_directory(MBART, tmp_path / "published", **MBART_50)
    config, params, _ = read(tmp_path / "today")
    same, again, _ = read(tmp_path / "published")
    assert same == config
    jax.tree.map(np.testing.assert_array_equal, again, params)
    write_directory(MBART, tmp_path / "other", normalize_before=False)
    with pytest.raises(UserError, match="normalize_before is False: transformers has no such mBART"):
        read(tmp_path / "other")


def test_pegasus_as_published_is_read_without_its_fixed_positions(tmp_path):
    write_directory(PEGASUS, tmp_path / "today")
    write_directory(PEGASUS, tmp_path / "published", **PEGASUS_LARGE)
    config, params, _ = read(tmp_path / "today")
    same, again, left_out = read(tmp_path / "published")
    assert same == config
    jax.tree.map(np.testing.assert_array_equal, again, params)
    assert sorted(left_out) == [f"model.{side}.embed_positions.weight" for side in ("decoder", "encoder")]
    write_directory(PEGASUS, tmp_path / "other", static_position_embeddings=False)
    with pytest.raises(UserError, match="static_position_embeddings is False: transformers has no such PEGASUS"):
        read(tmp_path / "other")


def test_marian_as_published_is_read_with_its_bias_of_the_logits(tmp_path):
    write_directory(MARIAN, tmp_path / "today")
    write_directory(MARIAN, tmp_path / "published", **OPUS_MT)
    config, params, _ = read(tmp_path / "today")
    same, again, _ = read(tmp_path / "published")
    assert same == config
    assert config.head_bias
    jax.tree.map(np.testing.assert_array_equal, again, params)
    assert Generation(tmp_path, OPUS_MT).not_carried("encoder_decoder") == [
        "forced_eos_token_id = 0",
        "max_length = 512",
        "num_beams = 4",
    ]
    for option, value in (("decoder_vocab_size", 97), ("share_encoder_decoder_embeddings", False)):
        write_directory(MARIAN, tmp_path / option, **{option: value})
        with pytest.raises(UserError, match=f"{option} is {value}: encoder and decoder share one table"):
            read(tmp_path / option)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalize_before": True}, "normalize_before is True: transformers has no such BART"),
        ({"static_position_embeddings": True}, "static_position_embeddings is True"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is False: the logits are computed with the table"),
        ({"activation_dropout": 0.3}, "activation_dropout is 0.3: expected 0.0 or the value of dropout"),
        ({"num_hidden_layers": 3}, "num_hidden_layers is 3"),
        ({"is_encoder_decoder": False}, "is_encoder_decoder is False: an encoder-decoder is expected"),
    ],
)
def test_options_that_bart_does_not_have_are_refused_by_name(options, message, tmp_path):
    write_directory(BART, tmp_path, **options)
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


def tokenizer(directory, post_processor=None):
    """Write a tokenizer.json that frames texts as BART's does, or with another post-processor."""
    words = ["<s>", "<pad>", "</s>", "<unk>", *(f"w{i}" for i in range(91)), "<mask>"]
    library = Library(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    library.add_special_tokens([*words[:4], "<mask>"])
    library.post_processor = post_processor or processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    library.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BartTokenizer"}))
    return library


def test_texts_begin_as_in_transformers(tmp_path):
    library = tokenizer(tmp_path)
    options = {"model_type": "bart", "is_encoder_decoder": True, "eos_token_id": 2, **LARGE_CNN}
    generation = Generation(tmp_path, options)
    own = generation.applied(read_vocabulary(tmp_path, options, scratch=tmp_path), "encoder_decoder")
    assert (own.bos_id, own.forced, own.eos_id, own.pad_id) == (2, 0, 2, 1)
    assert framed(own, "encoder_decoder", "w1 w2") == library.encode("w1 w2").ids == [0, 5, 6, 2]
    assert own.decode_generated([0, 5, 6, 2]) == "w1 w2"
    assert not any("forced_bos" in line for line in generation.not_carried("encoder_decoder"))
    written = generation_config(own, {"architectures": ["BartForConditionalGeneration"]}, None)
    assert written["forced_bos_token_id"] == 0
    with pytest.raises(UserError, match="forced_bos_token_id is 96: expected one of the tokenizer's 96 ids"):
        Generation(tmp_path, {**options, "forced_bos_token_id": 96}).applied(own, "encoder_decoder")


def test_the_language_of_mbart_is_written_in_the_texts(tmp_path):
    def framed_by(template):
        library = tokenizer(tmp_path, processors.TemplateProcessing(single=template, special_tokens=SPECIAL))
        return library, read_vocabulary(tmp_path, options, scratch=tmp_path)

    options = {"model_type": "mbart", "is_encoder_decoder": True, "eos_token_id": 2, "decoder_start_token_id": 2}
    library, own = framed_by("w9 $A </s>")
    assert added_before(own) == "w9"
    assert framed(own, "encoder_decoder", "w9 w1 w2") == library.encode("w1 w2").ids == [13, 5, 6, 2]
    generation = Generation(tmp_path, {**options, "forced_bos_token_id": 13, "forced_eos_token_id": 2})
    assert generation.applied(own, "encoder_decoder").forced == 13
    assert generation.not_carried("encoder_decoder") == ["forced_eos_token_id = 2"]
    with pytest.raises(UserError, match=r"tokenizer.json: it adds 'w9' after each text, which is not supported"):
        framed_by("$A </s> w9")
    assert added_before(framed_by("$A </s>")[1]) is None
