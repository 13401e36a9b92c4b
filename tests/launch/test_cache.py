"""`t2t cache` as a process of its own, killed and begun again by two processes of Beam's."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from t2t.launch.main import run

ROOT = Path(__file__).parents[2]
TASK = """
import os, time
import tensorflow as tf
from t2t import tasks
from t2t.tasks import objectives, sources

def slow(example):
    def wait(text):
        time.sleep(float(os.environ.get("SLOW", 0)))
        return text
    return tf.ensure_shape(tf.numpy_function(wait, [example["text"]], tf.string, stateful=False), [])

tasks.add("written_texts", source=sources.text({source!r}), targets=slow, objective=objectives.causal_lm, replace=True)
"""


@pytest.fixture
def place(tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"text number {i}\n" for i in range(4_000)))
    (tmp_path / "written.py").write_text(TASK.replace("{source!r}", repr(str(texts))))
    return tmp_path


def words(place, *more):
    imported = ["--import", str(place / "written.py")]
    return ["cache", "written_texts", "--out", str(place / "out"), "--splits", "train", *imported, *more]


def test_killed_it_goes_on_where_it_was_with_beam(place, capsys):
    pytest.importorskip("apache_beam")
    environment = os.environ | {"SLOW": "0.002", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "t2t.launch", *words(place, "--workers", "1")]
    process = subprocess.Popen(command, env=environment, cwd=place, stderr=subprocess.DEVNULL)
    directory = place / "out/written_texts"
    until = time.monotonic() + 300
    while not list(directory.glob("train*.json")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    records = [file.with_suffix("") for file in directory.glob("train*.json")]
    done = {file: file.stat().st_mtime_ns for file in (record.with_suffix(".array_record") for record in records)}
    assert 1 <= len(done) < 4
    assert run(words(place, "--verify")) == 2
    assert f"{len(done)} of 4 shards are there" in capsys.readouterr().err
    assert run(words(place, "--workers", "2")) == 0
    assert {file: file.stat().st_mtime_ns for file in done} == done
    assert sorted(file.name for file in directory.iterdir()) == [
        "manifest.json",
        *(f"train-{i:05d}-of-00004.array_record" for i in range(4)),
    ]
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == ["task", "split", "shards", "examples", "tokens", "bytes"]
    assert shown[-1].split()[:4] == ["written_texts", "train", "4", "4,000"]
    assert run(words(place, "--verify")) == 0

    made = json.loads((directory / "manifest.json").read_text())
    (place / "out").rename(place / "beam")
    assert run(words(place, "--workers", "1")) == 0
    assert json.loads((directory / "manifest.json").read_text()) == made
