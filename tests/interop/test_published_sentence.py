"""Sentence encoders as they were published: the vectors of `sentence-transformers`, there and back, and what is refused."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import t2t
from t2t.api.importing import import_checkpoint
from t2t.errors import UserError
from t2t.export.sentence import read_sentence, write_sentence
from t2t.launch.main import run
from tests.interop.sentence_files import FILE, LONG, MODELS, TEXTS, write


@pytest.mark.parametrize("name", MODELS)
def test_vectors_are_those_of_sentence_transformers_and_the_files_come_out_as_they_went_in(name, tmp_path):
    theirs, out = tmp_path / "theirs", tmp_path / "out"
    write(name, theirs)
    expected = json.loads(FILE.read_text())[name]
    lines = []
    import_checkpoint(str(theirs), str(tmp_path / "run"), check=False, say=lines.append)
    assert any("position_ids" in line for line in lines) == (
        "family" not in MODELS[name] or MODELS[name]["family"] == "MPNet"
    )
    first = t2t.load(tmp_path / "run")
    np.testing.assert_allclose(first.embed(TEXTS), expected, atol=1e-5)
    first.export("sentence-transformers", out, check=False)
    for file in ("modules.json", "tokenizer.json", "vocab.txt", "2_Dense/config.json"):
        if (theirs / file).exists():
            before, after = ((place / file).read_text() for place in (theirs, out))
            assert before == after or json.loads(before) == json.loads(after)
    if "dense" in MODELS[name]:
        layers = [load_file(place / "2_Dense" / "model.safetensors") for place in (theirs, out)]
        jax.tree.map(np.testing.assert_array_equal, *layers)
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
            lambda x: x[2].update(type="sentence_transformers.models.CNN"),
            "module 2 is CNN, which is not",
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
            lambda x: x.update(pooling_mode="median"),
            "pooling_mode is 'median': supported are mean, cls, max, lasttoken",
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, t: x.update(in_features=7), "in_features is 7: the pooling is of 32 dimensions"),
        (
            lambda x, t: x.update(activation_function="torch.nn.modules.activation.ReLU"),
            "activation_function is 'torch.nn.modules.activation.ReLU': supported are torch.nn.modules.activation.Tanh",
        ),
        (lambda x, t: x.update(module_input_name="token_embeddings"), "module_input_name is 'token_embeddings'"),
        (lambda x, t: x.update(odd=1), "odd is 1: unknown option, which may change the vectors"),
        (lambda x, t: x.update(bias=False), "2_Dense: the model has no parameter for linear.bias"),
        (lambda x, t: x.update(out_features=5), "2_Dense: tensor linear.weight has shape 32x32; .* expects 5x32"),
        (lambda x, t: t.pop("linear.weight"), "2_Dense: linear.weight is missing"),
        (lambda x, t: t["linear.bias"].fill(np.nan), "tensor linear.bias has values that are NaN"),
    ],
)
def test_a_dense_layer_that_cannot_be_honoured_is_refused(change, message, tmp_path):
    write("LaBSE", tmp_path / "theirs")
    folder = tmp_path / "theirs" / "2_Dense"
    options, tensors = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    change(options, tensors)
    (folder / "config.json").write_text(json.dumps(options))
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match=message) as caught:
        import_checkpoint(str(tmp_path / "theirs"), str(tmp_path / "run"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_modules_in_another_order_are_refused(tmp_path):
    write("LaBSE", tmp_path / "theirs")
    modules = json.loads((tmp_path / "theirs" / "modules.json").read_text())
    (tmp_path / "theirs" / "modules.json").write_text(json.dumps([*modules[:2], modules[3], modules[2]]))
    with pytest.raises(
        UserError, match=r"Transformer, Pooling, Normalize, Dense; expected .* at most one Dense and one"
    ):
        read_sentence(tmp_path / "theirs")


@pytest.mark.parametrize("mode", ["mean", "cls", "max", "lasttoken", "weightedmean", "mean_sqrt_len_tokens"])
def test_every_mode_of_pooling_goes_as_it_came(mode, tmp_path):
    write("all-MiniLM-L6-v2", tmp_path / "theirs")
    file = tmp_path / "theirs" / "1_Pooling" / "config.json"
    file.write_text(json.dumps({"embedding_dimension": 32, "pooling_mode": mode}))
    vectors = read_sentence(tmp_path / "theirs").vectors
    (tmp_path / "ours").mkdir()
    write_sentence(tmp_path / "ours", vectors)
    assert read_sentence(tmp_path / "ours").vectors == vectors
    written = json.loads((tmp_path / "ours" / "1_Pooling" / "config.json").read_text())
    flags = [name for name, value in written.items() if value is True and name.startswith("pooling_mode_")]
    assert len(flags) == 1
    assert flags[0].startswith(f"pooling_mode_{mode}")


@pytest.mark.slow
def test_a_plain_export_leaves_the_dense_layer_out(tmp_path, capsys):
    write("LaBSE", tmp_path / "theirs")
    encoder = t2t.load(tmp_path / "theirs", dir=tmp_path / "run")
    assert run(["export", str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--format", "huggingface"]) == 0
    assert "does not store vector_pooling, vector_dense, vector_normalize" in capsys.readouterr().err
    plain = t2t.load(tmp_path / "out", dir=tmp_path / "plain")
    assert encoder.embed(["again"]).shape == plain.embed(["again"]).shape == (1, 32)
    assert "vector_layer" not in plain.params()
    np.testing.assert_array_equal(
        plain.params()["embeddings"]["token"]["table"], encoder.params()["embeddings"]["token"]["table"]
    )
