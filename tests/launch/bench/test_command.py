"""`t2t bench` as a user calls it."""

from __future__ import annotations

import json
import os

import pytest

from t2t.launch.bench import ceilings
from t2t.launch.bench.results import read
from t2t.launch.main import run

QUICK = ["--repeats", "1", "--seconds", "0.01"]
MISTAKES = [
    ("", "t2t bench: RECIPE is missing"),
    ("step", "RECIPE is missing: t2t recipes lists them. Example: t2t bench step t5:quickstart"),
    ("stpe t5:quickstart", "unknown part 'stpe'. Nearest: step"),
    ("t5:quickstart step", "parts come before the recipe"),
    ("t5:quickstart gpt:quickstart", "parts come before the recipe"),
    ("step t5:quikstart", "unknown recipe 't5:quikstart'. Nearest: t5:quickstart"),
    ("step t5:quickstart --mesh.data 16", "needs 16 devices, but there are 8"),
    ("step t5:quickstart --mesh.dta 2", "unknown option --mesh.dta. Nearest: --mesh.data"),
    ("step t5:quickstart --repeats 0", "repeats 0 (--repeats) is not a whole number from 1 to 1000000. Nearest: 1."),
    ("step t5:quickstart --seconds never", "--seconds"),
    ("step t5:quickstart --batches mine", "--batches"),
    ("step t5:quickstart --out nowhere/a.json", "nowhere/a.json (--out): no such directory nowhere."),
    ("checkpoint t5:quickstart --scratch nowhere", "nowhere (--scratch) is not a writable directory"),
    ("decode t5:quickstart --rows 1,x", "--rows 1,x: expected numbers separated by commas. Nearest: 1,8,64."),
    ("decode t5:quickstart --rows 0,8", "rows (0, 8) (--rows) is not a whole number from 1 to 1048576. Nearest: 1."),
    (
        "decode gpt:quickstart --generate 0",
        "generate 0 (--generate) is not a whole number from 1 to 65536. Nearest: 1.",
    ),
    ("decode bert:quickstart --generate 4", "which cannot generate"),
    ("decode gpt:quickstart --generate 500", "do not fit the 128 positions of gpt:quickstart. Nearest: --prompt"),
    ("step t5:quickstart --compare a.json b.json", "takes only two files"),
    ("--compare nowhere.json nothing.json", "nowhere.json: cannot be read"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[words for words, _ in MISTAKES])
def test_mistakes_are_told_in_a_line_before_anything_is_measured(words, message, capsys):
    assert run(["bench", *words.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("words", ["--help", "step gpt:quickstart --help"])
def test_help_tells_the_parts(words, capsys):
    assert run(["bench", *words.split()]) == 0
    out = capsys.readouterr().out
    assert "usage: t2t bench" in out
    assert "pipeline" in out


def test_results_are_kept_and_compared_and_only_the_parts_asked_for_are_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ceilings, "SIZES", (16,))
    monkeypatch.setattr(ceilings, "COPIED", 2**12)
    path = tmp_path / "results.json"
    words = ["ceilings", "gpt:quickstart", "--mesh.fsdp", "2", "--out", str(path), "--plot", str(tmp_path / "bars.png")]
    assert run(["bench", *words, *QUICK]) == 0
    out = capsys.readouterr().out
    assert "gpt:quickstart --mesh.fsdp 2 on 8 x cpu" in out
    found = read(path)
    assert {it.part for it in found.measurements} == {"ceilings"}
    assert found.settings | {"repeats": 1, "seconds": 0.01, "batches": "synthetic"} == found.settings
    assert json.loads(path.read_text())["experiment"]["mesh"]["fsdp"] == 2
    assert found.options == ("--mesh.fsdp", "2")
    assert sorted(os.listdir(tmp_path)) == ["bars.png", "results.json"]
    assert run(["bench", "--compare", str(path), str(path)]) == 0
    assert capsys.readouterr().out.count("1.000") == len(found.measurements) == 6


def test_an_interruption_keeps_what_was_measured(tmp_path, monkeypatch, capsys):
    from t2t.launch.bench import command
    from t2t.launch.bench.measurement import Measurement

    def interrupted(work):
        yield Measurement(part="compile", name="trace", unit="s", samples=(1.5,))
        raise KeyboardInterrupt

    monkeypatch.setitem(command.PARTS, "compile", interrupted)
    path = tmp_path / "results.json"
    assert run(["bench", "compile", "gpt:quickstart", "--out", str(path)]) == 130
    assert [it.name for it in read(path).measurements] == ["trace"]
    assert "1.50 s" in capsys.readouterr().out


@pytest.mark.slow
def test_all_parts_of_a_recipe(tmp_path, capsys):
    path, words = tmp_path / "results.json", ["--batch-size", "8", "--rows", "1,2", "--generate", "4"]
    plot = tmp_path / "bars.png"
    assert run(["bench", "t5:quickstart", *words, *QUICK, "--out", str(path), "--plot", str(plot)]) == 0
    found = read(path)
    assert {it.part for it in found.measurements} == {
        "ceilings",
        "step",
        "decode",
        "data",
        "start",
        "checkpoint",
        "compile",
    }
    assert plot.exists()
    start = {it.name: it for it in found.of("start")}
    first = start["first step, nothing compiled before"]
    assert first.details["import"] > 0
    assert first.median > sum(first.details.values()) - 1.0
    assert start["t2t infer imports TensorFlow"].median == 0.0
