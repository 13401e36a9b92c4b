"""Runs from Python, on models that were never trained: what they say is compared with the functions below them."""

import math
from dataclasses import replace

import jax
import numpy as np
import pytest

import t2t
from t2t import models
from t2t.api.importing import experiment_for, parameters_alone
from t2t.checkpoint import Checkpoints
from t2t.decode import embed_texts, fill_texts, generate_texts, label_texts, score_texts, value_texts
from t2t.sharding import MeshConfig
from t2t.train.run import CHECKPOINTS, RunRecord, open_run
from t2t.train.state import param_shardings
from t2t.vocabularies import Bytes

SMALL = {"d_model": 16, "num_heads": 2, "vocab_size": 384}


def made(directory, config):
    """Make a run of random parameters."""
    model = config.build()
    params = jax.jit(model.init, out_shardings=param_shardings(model, MeshConfig().build()))(jax.random.key(0))
    open_run(directory, RunRecord(recipe="test", experiment=experiment_for(config), vocabulary=Bytes(extra_ids=100)))
    with Checkpoints(directory / CHECKPOINTS) as checkpoints:
        checkpoints.save(0, parameters_alone(params), {}, {})
    return t2t.load(directory)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    encoder = models.bert.bert(num_layers=1, max_length=32, dropout=0.0, **SMALL)
    return {
        "t5": made(place / "t5", models.t5.t5(num_layers=1, d_ff=32, **SMALL)),
        "gpt": made(place / "gpt", models.gpt.gpt(num_layers=1, max_length=32, **SMALL)),
        "bert": made(place / "bert", encoder),
        "labels": made(place / "labels", replace(encoder, head="label", labels=("bad", "good"))),
        "several": made(place / "several", replace(encoder, head="labels", labels=("bad", "good"))),
        "numbers": made(place / "numbers", replace(encoder, head="numbers", labels=("length", "price"))),
    }


POOLED = {"vector_pooling": "max", "vector_normalize": True, "vector_max_length": 20}
TEXTS = ["copy: a", "reverse: one two"]


def parts(run):
    return run.model, run.parameters, run.vocabulary


def test_text_is_generated(runs):
    run = runs["t5"]
    expected = generate_texts(*parts(run), TEXTS, t2t.Greedy(), length=4)
    assert run.generate(TEXTS, max_length=4) == [outputs[0].text for outputs in expected]
    beams = run.outputs(TEXTS, t2t.Beam(size=3, return_n=2), max_length=4)
    assert beams == generate_texts(*parts(run), TEXTS, t2t.Beam(size=3, return_n=2), length=4)
    assert run.generate([]) == []


def test_a_decoder_continues_a_text(runs):
    run = runs["gpt"]
    expected = generate_texts(*parts(run), ["abc"], t2t.Greedy(), length=4, append_eos=False)
    assert run.generate(["abc"], max_length=4, continue_text=True) == [expected[0][0].text]
    with pytest.raises(t2t.UserError, match=r"continue_text: .* only decoders continue a text\."):
        runs["t5"].generate(["abc"], continue_text=True)


def test_targets_are_scored(runs):
    run = runs["t5"]
    found = run.score(["a", "b"], ["x", "yy"])
    assert found.shape == (2,)
    np.testing.assert_allclose(found, score_texts(*parts(run), [("a", "x"), ("b", "yy")]))
    with pytest.raises(t2t.UserError, match="score: 2 inputs and 1 targets: the numbers must be equal"):
        run.score(["a", "b"], ["x"])


def test_masks_are_filled(runs):
    run = runs["bert"]
    assert run.fill_mask(["a <mask> c"], top=2) == fill_texts(*parts(run), ["a <mask> c"], top=2)


def test_texts_are_classified(runs):
    run = runs["labels"]
    assert run.classify(TEXTS) == label_texts(*parts(run), [(text, None) for text in TEXTS])
    pairs = run.classify(["a"], ["b"])
    assert pairs == label_texts(*parts(run), [("a", "b")])
    assert math.isclose(sum(pairs[0].probabilities), 1.0, rel_tol=1e-5)
    with pytest.raises(t2t.UserError, match="2 texts and 1 second texts: the numbers must be equal"):
        run.classify(TEXTS, ["b"])


def test_texts_have_several_labels_or_numbers(runs):
    several, numbers = runs["several"], runs["numbers"]
    found = several.classify(["a", "b"], ["c", "d"])
    assert found == value_texts(*parts(several), [("a", "c"), ("b", "d")])
    for one in found:
        assert one.texts == [x for x, chance in zip(("bad", "good"), one.probabilities, strict=True) if chance >= 0.5]
    values = numbers.regress(TEXTS)
    assert values.shape == (2, 2)
    assert values.tolist() == [one.values for one in value_texts(*parts(numbers), [(text, None) for text in TEXTS])]
    assert numbers.regress([]).shape == (0, 2)


def test_texts_become_vectors(runs):
    vectors = runs["bert"].embed(TEXTS, normalize=True)
    assert vectors.shape == (2, 16)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0)
    assert not np.allclose(vectors, runs["bert"].embed(TEXTS, pooling="first"))


@pytest.mark.slow
def test_electras_vectors_are_the_discriminators(tmp_path):
    config = models.electra.electra(num_layers=1, max_length=32, dropout=0.0, **SMALL)
    run = made(tmp_path, config)
    encoder = config.discriminator().build()
    params = {**encoder.init(jax.random.key(1)), **{name: run.parameters[name] for name in ("embeddings", "encoder")}}
    expected = embed_texts(encoder, params, run.vocabulary, TEXTS)
    np.testing.assert_allclose(run.embed(TEXTS), expected, rtol=1e-5)


def test_vectors_are_pooled_as_the_model_says(runs):
    run = runs["bert"]
    experiment = replace(run.experiment, model=replace(run.model.config, **POOLED))
    run = replace(run, record=replace(run.record, experiment=experiment))
    vectors = run.embed(TEXTS)
    np.testing.assert_array_equal(vectors, runs["bert"].embed(TEXTS, pooling="max", normalize=True))
    np.testing.assert_array_equal(run.embed(TEXTS, pooling="mean", normalize=False), runs["bert"].embed(TEXTS))
    with pytest.raises(t2t.UserError, match=r"text 1 has 31 tokens, but model.vector_max_length is 20"):
        run.embed(["a" * 30])


def test_a_text_that_is_too_long_is_refused_or_cut(runs, caplog):
    run, long = runs["bert"], "a" * 40
    with pytest.raises(t2t.UserError, match=r'text 2 has 41 tokens.* 32 positions\. too_long="truncate"'):
        run.embed(["b", long])
    np.testing.assert_array_equal(run.embed(["b", long], too_long="truncate")[1:], run.embed([long[:31]]))
    assert "1 texts are too long and were truncated, the first is text 2" in caplog.text


def test_parameters_are_read_once(runs, monkeypatch):
    run = runs["t5"]
    first = run.parameters
    assert run.parameters is first
    run.forget_parameters()
    assert run.parameters is not first


@pytest.mark.parametrize(
    ("name", "call", "said"),
    [
        (
            "t5",
            lambda run: run.fill_mask(["<mask>"]),
            r"fill_mask: .* is a model of kind encoder_decoder\. Nearest: generate\.",
        ),
        ("bert", lambda run: run.generate(["a"]), r"generate: .* fills in <mask>\. Nearest: fill_mask, embed\."),
        ("bert", lambda run: run.score(["a"], ["b"]), r"score: .* fills in <mask>\. Nearest: fill_mask, embed\."),
        ("numbers", lambda run: run.classify(["a"]), r"classify: .* numbers of texts\. Nearest: regress, embed\."),
        ("labels", lambda run: run.fill_mask(["a"]), r"fill_mask: .* labels texts\. Nearest: classify, embed\."),
        ("t5", lambda run: run.generate("copy: a"), r"texts is one text\. Nearest: a list of texts, \['copy: a'\]\."),
        ("t5", lambda run: run.generate(["a", 3]), r"texts\[1\] is int, not text\."),
        ("t5", lambda run: run.generate(["a"], max_length=0), r"max_length 0 \(Run\.generate\) is not .* Nearest: 1\."),
        ("t5", lambda run: run.generate(["a"], too_long="skip"), r"unknown too_long 'skip'\. Nearest: stop"),
        ("t5", lambda run: run.export("hugingface", "x"), r"unknown format 'hugingface'"),
        (
            "t5",
            lambda run: run.export("safetensors", "x", dtpe="float32"),
            r"Run\.export: unknown option dtpe\. Nearest: dtype",
        ),
        ("t5", lambda run: run.evaluate("revrse_words"), r"unknown task 'revrse_words'"),
    ],
)
def test_mistakes_are_one_line(runs, name, call, said):
    with pytest.raises(t2t.UserError, match=said):
        call(runs[name])


def test_a_run_is_evaluated(runs):
    (result,) = runs["t5"].evaluate("copy_words", split="test", examples=2)
    assert (result.task, result.examples) == ("copy_words@test", 2)
    assert result.metrics["loss"] > 0
    assert len(result.predictions) == 2
    assert (runs["t5"].directory / "eval/0.json").is_file()


@pytest.mark.slow
def test_an_export_is_loaded_again(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("T2T_CACHE", str(tmp_path / "cache"))
    run = runs["t5"]
    directory = run.export("huggingface", tmp_path / "hf", check=False)
    again = t2t.load(directory)
    assert again.directory.is_relative_to(tmp_path / "cache")
    assert again.generate(TEXTS, max_length=4) == run.generate(TEXTS, max_length=4)
    assert t2t.load(directory).directory == again.directory  # nothing is imported twice
    assert t2t.load(directory, dir=tmp_path / "mine").directory == tmp_path / "mine"
    (directory / "config.json").touch()
    assert t2t.load(directory).directory != again.directory
    with pytest.raises(t2t.UserError, match=r"step 3: .* which has no steps"):
        t2t.load(directory, step=3)


def test_what_is_no_run_is_refused(runs, tmp_path):
    with pytest.raises(t2t.UserError, match=r"no run directory .*/tt5\. Nearest: .*t5"):
        t2t.load(runs["t5"].directory.parent / "tt5")
    with pytest.raises(t2t.UserError, match="is not a run directory"):
        t2t.load(tmp_path)
    with pytest.raises(t2t.UserError, match=r"none\.gguf \(path\): no such file"):
        t2t.load(tmp_path / "none.gguf")
    with pytest.raises(t2t.UserError, match="dir x: it is for models that are imported"):
        t2t.load(runs["t5"].directory, dir="x")
