"""DeBERTa v2 and v3 as they were published: config.json, the names of their tensors, spm.model; and what is refused."""

import json
import shutil
import unicodedata

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from t2t.errors import UserError
from t2t.export.family import canonical
from t2t.export.huggingface import opened
from t2t.export.token_check import TEXTS
from t2t.export.tokenizer_files import read_vocabulary
from t2t.export.tokenizer_json import framed, framed_library
from t2t.launch.export import export
from t2t.launch.import_model import import_model
from t2t.models.families import exportable, family_of
from t2t.sharding import MeshConfig
from tests.interop.cases import CASES
from tests.interop.goldens import write_directory
from tests.test_vocabularies import trained

BY_NAME = {case.name: case for case in CASES}
V3, V2, OTHER = (BY_NAME[f"DeBERTa {name}"] for name in ("v3 masked LM", "v2 convolution", "other options"))
# The options that transformers 5 writes and the published files do not have.
LATER = dict.fromkeys(("architectures", "pooler_hidden_size", "pooler_hidden_act", "pooler_dropout", "legacy"))
# deberta-v3-base, with its sizes reduced.
PUBLISHED = {
    **LATER,
    "model_type": "deberta-v2",
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "initializer_range": 0.02,
    "relative_attention": True,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "layer_norm_eps": 1e-7,
    "max_relative_positions": -1,
    "position_biased_input": False,
    "type_vocab_size": 0,
}
# deberta-v2-xlarge has these besides.
VERSION2 = {**PUBLISHED, "attention_head_size": 8, "conv_kernel_size": 3, "conv_act": "gelu"}


def rewritten(directory, change):
    tensors = load_file(directory / "model.safetensors")
    save_file(change(tensors), directory / "model.safetensors")


def read(directory):
    with opened(directory, family_of) as source:
        return source, source.params(MeshConfig().build())


@pytest.mark.parametrize(("case", "options"), [(V3, PUBLISHED), (V2, VERSION2)], ids=["v3", "v2"])
def test_published_options_give_the_same_model(case, options, tmp_path):
    write_directory(case, tmp_path / "today")
    write_directory(case, tmp_path / "published", **options)
    (published, params), (today, wanted) = (read(tmp_path / name) for name in ("published", "today"))
    assert canonical(published.config) == canonical(today.config)
    assert not published.left_out
    jax.tree.map(np.testing.assert_array_equal, params, wanted)


def later_names(tensors):
    """Rename the masked-LM head as in the published files of version 3."""
    head = {name: value for name, value in tensors.items() if name.startswith("cls.predictions.")}
    body = {name: value for name, value in tensors.items() if name not in head}
    named = {
        name.replace("cls.predictions.transform.", "cls.predictions.").replace(
            "cls.predictions", "lm_predictions.lm_head"
        ): value
        for name, value in head.items()
    }
    return {**body, **named}


def as_version3(tensors):
    """Add the discriminator's head."""
    width = np.ones(32, np.float32)
    head = {"dense.weight": np.ones((32, 32), np.float32), "dense.bias": width, "LayerNorm.weight": width.copy()}
    head |= {"LayerNorm.bias": width.copy(), "classifier.weight": np.ones((1, 32), np.float32)}
    head |= {"classifier.bias": np.ones(1, np.float32)}
    return {**later_names(tensors), **{f"mask_predictions.{name}": value for name, value in head.items()}}


def test_a_published_discriminator_is_an_encoder_without_a_head(tmp_path):
    """Its files name no architecture. transformers reads neither of its heads."""
    write_directory(V3, tmp_path, **PUBLISHED)
    rewritten(tmp_path, as_version3)
    source, params = read(tmp_path)
    heads = ("mask_predictions.", "lm_predictions.")
    assert set(source.left_out) == {
        name for name in load_file(tmp_path / "model.safetensors") if name.startswith(heads)
    }
    assert set(source.left_out.values()) == {
        "the discriminator's head, which transformers does not have",
        'a masked-LM head that transformers reads only with the option "legacy": false',
    }
    assert set(params) == {"embeddings", "encoder"}
    assert exportable(source.config)[1]["architectures"] == ["DebertaV2Model"]


def test_its_masked_lm_head_is_read_where_transformers_reads_it(tmp_path):
    write_directory(V3, tmp_path / "legacy")
    write_directory(V3, tmp_path / "later", **{**PUBLISHED, "legacy": False})
    rewritten(tmp_path / "later", as_version3)
    (later, params), (_, wanted) = (read(tmp_path / name) for name in ("later", "legacy"))
    jax.tree.map(np.testing.assert_array_equal, params, wanted)
    assert all(name.startswith("mask_predictions.") for name in later.left_out)


def test_positions_that_nothing_reads_are_left_out(tmp_path):
    write_directory(V3, tmp_path)
    name = "deberta.embeddings.position_embeddings.weight"
    rewritten(tmp_path, lambda tensors: {**tensors, name: np.ones((24, 32), np.float32)})
    assert read(tmp_path)[0].left_out == {name: "position_biased_input is false"}


@pytest.mark.parametrize(
    ("case", "options", "message"),
    [
        (V3, {"relative_attention": False}, "relative_attention is False: without relative positions"),
        (V3, {"relative_attention": None}, "relative_attention is False: without relative positions"),
        (V3, {"pos_att_type": "p2p|c2p"}, r"pos_att_type is \['p2p', 'c2p'\]: expected one or both of c2p, p2c"),
        (V3, {"pos_att_type": []}, "pos_att_type is .*: expected one or both of c2p, p2c"),
        (V3, {"norm_rel_ebd": "batch_norm"}, "norm_rel_ebd is 'batch_norm': supported are layer_norm, none"),
        (V3, {"position_buckets": 46}, r"max_distance is 24; half of .*buckets = 46"),
        (V3, {"attention_head_size": 16}, "attention_head_size is 16: heads of another size"),
        (V3, {"architectures": ["DebertaV2ForMultipleChoice"]}, "its head is not supported"),
        (V2, {"conv_groups": 2}, "conv_groups is 2: a convolution in groups is not supported"),
        (V2, {"conv_act": "mish"}, "conv_act is 'mish': supported are tanh, relu, gelu"),
        (V2, {"conv_kernel_size": 4}, "convolution.size is 4; it must be odd"),
        (BY_NAME["DeBERTa label"], {"pooler_hidden_act": "silu"}, "pooler_hidden_act is 'silu': supported are tanh"),
        (BY_NAME["DeBERTa label"], {"pooler_dropout": 0.2}, "pooler_dropout is 0.2: dropout before the pooler"),
        (BY_NAME["DeBERTa label"], {"cls_dropout": 0.2}, "cls_dropout is 0.2: the classifier has the rate of hidden"),
    ],
)
def test_options_that_cannot_be_honoured_are_refused_by_name(case, options, message, tmp_path):
    write_directory(case, tmp_path, **options)
    with pytest.raises(UserError, match=message) as caught, opened(tmp_path, family_of):
        pass
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_narrow_model_without_a_head_computes_vectors(tmp_path):
    write_directory(OTHER, tmp_path, architectures=["DebertaV2Model"], prefix="deberta.")
    rewritten(tmp_path, lambda tensors: {name: x for name, x in tensors.items() if not name.startswith("cls.")})
    source, params = read(tmp_path)
    assert (source.config.head, set(params)) == ("vectors", {"embeddings", "encoder"})
    assert exportable(source.config)[1]["architectures"] == ["DebertaV2Model"]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """A SentencePiece model with the special tokens of DeBERTa, which has no [MASK]."""
    names = {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"}
    ids = {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3}
    return trained(tmp_path_factory.mktemp("pieces") / "spm.model", **names, **ids, byte_fallback=False, vocab_size=90)


def directory_with(pieces, directory, **settings):
    directory.mkdir(exist_ok=True)
    shutil.copyfile(pieces, directory / "spm.model")
    written = {"do_lower_case": False, "vocab_type": "spm", **settings}
    (directory / "tokenizer_config.json").write_text(json.dumps(written))
    return directory


def test_the_published_tokenizer_gives_cls_words_and_sep(pieces, tmp_path):
    directory = directory_with(pieces, tmp_path)
    vocabulary = read_vocabulary(directory, {"model_type": "deberta-v2", "pad_token_id": 0}, scratch=tmp_path)
    assert (vocabulary.pad_id, vocabulary.cls_id, vocabulary.sep_id, vocabulary.eos_id) == (0, 1, 2, 2)
    assert (vocabulary.mask_id, vocabulary.size) == (90, 91)
    ids = framed(vocabulary, "encoder", "the [MASK] dog")
    assert (ids[0], ids[-1], ids.count(90)) == (1, 2, 1)
    pair = framed_library(vocabulary, "encoder").encode("the", "dog")
    assert pair.type_ids == [0] * (pair.ids.index(2) + 1) + [1] * (len(pair.ids) - pair.ids.index(2) - 1)
    same = [vocabulary.encode(text) for text in ("the lazy\ndog", "the  lazy dog ", "the\tlazy dog")]
    assert same == [vocabulary.encode("the lazy dog")] * 3
    accents = [vocabulary.encode(unicodedata.normalize(form, "né")) for form in ("NFC", "NFD")]
    assert accents[0] == accents[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"do_lower_case": "no"}, "do_lower_case.*true or false"), ({"mask_token": 3}, "mask_token")],
)
def test_settings_of_the_wrong_type_are_named(settings, message, pieces, tmp_path):
    directory = directory_with(pieces, tmp_path, **settings)
    with pytest.raises(UserError, match=message):
        read_vocabulary(directory, {"model_type": "deberta-v2"}, scratch=tmp_path)


def test_a_model_of_merges_is_refused(tmp_path):
    trained(tmp_path / "spm.model", model_type="bpe")
    with pytest.raises(UserError, match=r"spm.model': the tokenizer of DeBERTa needs .* type unigram"):
        read_vocabulary(tmp_path, {"model_type": "deberta-v2"}, scratch=tmp_path)


@pytest.mark.slow
def test_an_import_goes_out_with_the_files_that_it_came_with(pieces, tmp_path):
    write_directory(BY_NAME["DeBERTa label"], tmp_path / "theirs")
    directory_with(pieces, tmp_path / "theirs")
    import_model(str(tmp_path / "theirs"), dir=str(tmp_path / "run"))
    export(str(tmp_path / "run"), format="huggingface", out=str(tmp_path / "out"))
    for name in ("spm.model", "tokenizer_config.json"):
        assert (tmp_path / "theirs" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    before, after = (load_file(tmp_path / place / "model.safetensors") for place in ("theirs", "out"))
    assert before.keys() == after.keys()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    back = read_vocabulary(tmp_path / "out", {"model_type": "deberta-v2"}, scratch=tmp_path)
    first = read_vocabulary(tmp_path / "theirs", {"model_type": "deberta-v2"}, scratch=tmp_path)
    assert [back.encode(text) for text in TEXTS] == [first.encode(text) for text in TEXTS]
