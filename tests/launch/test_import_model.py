"""A model of `transformers` in, asked, and out again, by the commands."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from t2t.api.recipes import find
from t2t.launch.main import run
from t2t.models import gpt
from t2t.models.families import exportable
from t2t.train.run import SavedRun
from tests.interop.cases import weight
from tests.test_tokenizer import byte_level

SIZES = {"vocab_size": 304, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 24, "n_inner": 32}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with theirs/ and, imported from it, run/."""
    place = tmp_path_factory.mktemp("import")
    theirs = place / "theirs"
    theirs.mkdir()
    (theirs / "config.json").write_text(json.dumps({"model_type": "gpt2", "eos_token_id": 300, **SIZES}))
    config = gpt.gpt(num_layers=2, d_model=16, num_heads=2, d_ff=32, vocab_size=304, max_length=24)
    save_file({t.name: weight(t.name, t.shape) for t in exportable(config)[2]}, theirs / "model.safetensors")
    byte_level(theirs / "tokenizer.json")
    (theirs / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>", "of_ours": 1}))
    assert run(["import", str(theirs), "--dir", str(place / "run")]) == 0
    return place


def test_it_answers_goes_on_with_a_text_and_comes_out_as_it_went_in(place, capsys):
    words = ["infer", str(place / "run"), "--text", "the quick", "--max-length", "4"]
    assert run([*words, "--continue-text"]) == 0
    assert capsys.readouterr().out.strip("\n")
    assert run(["export", str(place / "run"), "--format", "huggingface", "--out", str(place / "out")]) == 0
    assert "tensors equal bit for bit in float32" in capsys.readouterr().err
    before, after = (load_file(place / name / "model.safetensors") for name in ("theirs", "out"))
    assert {name: value.tobytes() for name, value in before.items()} == {k: v.tobytes() for k, v in after.items()}
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (place / "out" / name).read_bytes() == (place / "theirs" / name).read_bytes()
    options = json.loads((place / "out" / "config.json").read_text())
    assert options["eos_token_id"] == 300
    assert {name: options[name] for name in SIZES} == SIZES


def test_bfloat16_in_several_files(place):
    out = place / "small"
    words = ["export", str(place / "run"), "--format", "huggingface", "--dtype", "bfloat16", "--shard-bytes", "9000"]
    assert run([*words, "--out", str(out)]) == 0
    index = json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(index.values())) > 2
    whole = load_file(place / "theirs" / "model.safetensors")
    assert set(index) == set(whole)
    for name, file in index.items():
        np.testing.assert_allclose(load_file(out / file)[name].astype(np.float32), whole[name], rtol=2**-8)
    assert run(["import", str(out), "--dir", str(place / "again")]) == 0
    assert SavedRun.load(place / "again").model.config == SavedRun.load(place / "run").model.config


def test_a_run_goes_on_from_it(place):
    experiment = find(f"from:{place / 'run'}")()
    assert experiment.start_from.run == str(place / "run")
    assert experiment.model == SavedRun.load(place / "run").model.config
    assert experiment.data.vocabulary == SavedRun.load(place / "run").vocabulary


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["import", "{place}/their", "--dir", "{place}/x"], "directory {place}/their not found. Nearest: theirs."),
        (["import", "{place}/theirs", "--dir", "{place}/run"], "{place}/run (--dir) already exists"),
        (["import", "{place}", "--dir", "{place}/x"], "config.json is missing"),
        (
            ["export", "{place}/run", "--format", "huggingface", "--dtype", "float8", "--out", "{place}/y"],
            "Nearest: float",
        ),
        (["import", "{place}/run", "--preset", "t5:1.1-small", "--dir", "{place}/x"], "neither a T5X checkpoint"),
    ],
)
def test_mistakes_take_one_line_and_leave_nothing(words, message, place, capsys):
    assert run([word.format(place=place) for word in words]) == 2
    error = capsys.readouterr().err
    assert message.format(place=place) in error
    assert error.count("\n") == 1
    assert not (place / "x").exists()
    assert not (place / "y").exists()
