"""Sentence encoders as they were published: the vectors of `sentence-transformers`, there and back, and what is refused."""

import json

import numpy as np
import pytest

import t2t
from t2t.api.importing import import_checkpoint
from t2t.errors import UserError
from t2t.export.sentence import read_sentence
from t2t.launch.main import run
from tests.interop.sentence_files import FILE, LONG, MODELS, TEXTS, write


@pytest.mark.parametrize("name", MODELS)
def test_vectors_are_those_of_sentence_transformers_and_the_files_come_out_as_they_went_in(name, tmp_path):
    theirs, out = tmp_path / "theirs", tmp_path / "out"
    write(name, theirs)
    expected = json.loads(FILE.read_text())[name]
    lines = []
    import_checkpoint(str(theirs), str(tmp_path / "run"), check=False, say=lines.append)
    assert any("position_ids" in line for line in lines)
    first = t2t.load(tmp_path / "run")
    np.testing.assert_allclose(first.embed(TEXTS), expected, atol=1e-5)
    first.export("sentence-transformers", out, check=False)
    for file in ("modules.json", "tokenizer.json", "vocab.txt"):
        before, after = ((place / file).read_text() for place in (theirs, out))
        assert before == after or json.loads(before) == json.loads(after)
    assert read_sentence(out).vectors == read_sentence(theirs).vectors
    import_checkpoint(str(out), str(tmp_path / "again"), check=False)
    again = t2t.load(tmp_path / "again")
    assert again.model.config == first.model.config
    np.testing.assert_array_equal(again.embed(TEXTS), first.embed(TEXTS))


def test_the_length_of_texts_is_that_of_the_files(tmp_path):
    write("all-MiniLM-L6-v2", tmp_path / "theirs")
    encoder = t2t.load(tmp_path / "theirs", dir=tmp_path / "run")
    with pytest.raises(UserError, match=r"text 1 has 16 tokens, but model.vector_max_length is 12"):
        encoder.embed([LONG])
    cut = " ".join(LONG.split()[:10])
    np.testing.assert_allclose(encoder.embed([LONG], too_long="truncate"), encoder.embed([cut]), atol=1e-6)


def test_a_plain_export_says_what_it_does_not_store(tmp_path, capsys):
    write("all-MiniLM-L6-v2", tmp_path / "theirs")
    assert run(["import", str(tmp_path / "theirs"), "--dir", str(tmp_path / "run")]) == 0
    words = ["export", str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--format", "huggingface"]
    assert run(words) == 0
    said = capsys.readouterr().err
    assert "does not store vector_normalize, vector_max_length; use --format sentence-transformers" in said


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "modules.json",
            lambda x: x[2].update(type="sentence_transformers.models.Dense"),
            "module 2 is Dense, which is not",
        ),
        ("modules.json", lambda x: x.pop(1), "the modules are Transformer, Normalize; expected Transformer, Pooling"),
        ("modules.json", lambda x: x[1].update(path="../1_Pooling"), "is not the name of a file in its directory"),
        (
            "1_Pooling/config.json",
            lambda x: x.update(pooling_mode_max_tokens=True),
            r"pooling_mode is \['mean', 'max'\]: only one",
        ),
        (
            "1_Pooling/config.json",
            lambda x: x.update(pooling_mode="lasttoken"),
            "pooling_mode is 'lasttoken': supported are mean, cls, max",
        ),
        (
            "1_Pooling/config.json",
            lambda x: x.update(word_embedding_dimension=7),
            "the pooling is of 7 dimensions, but .* 32",
        ),
        ("1_Pooling/config.json", lambda x: x.update(odd=1), "odd is 1: unknown option, which may change the vectors"),
        (
            "sentence_bert_config.json",
            lambda x: x.update(transformer_task="fill-mask"),
            "transformer_task is 'fill-mask'",
        ),
        (
            "config_sentence_transformers.json",
            lambda x: x.update(prompts={"query": "q: "}, default_prompt_name="query"),
            "default_prompt_name is 'query': prompts are not added",
        ),
        (
            "config_sentence_transformers.json",
            lambda x: x.update(model_type="SparseEncoder"),
            "model_type is 'SparseEncoder'",
        ),
        (
            "tokenizer_config.json",
            lambda x: x.update(do_lower_case=False),
            "do_lower_case is True, but the tokenizer",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(file, change, message, tmp_path):
    cased = file == "tokenizer_config.json"
    write("bge-small-en-v1.5" if cased else "all-MiniLM-L6-v2", tmp_path / "theirs")
    if cased:
        (tmp_path / "theirs" / "tokenizer.json").unlink()
    path = tmp_path / "theirs" / file
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
    with pytest.raises(UserError, match=message) as caught:
        import_checkpoint(str(tmp_path / "theirs"), str(tmp_path / "run"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
