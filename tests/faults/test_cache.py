"""`t2t cache` on two processes of Beam's, killed with SIGKILL and begun again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from t2t.launch.main import run

pytestmark = pytest.mark.faults
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

tasks.add("slow_texts", source=sources.text({source!r}), targets=slow, objective=objectives.causal_lm, replace=True)
"""


def test_killed_its_workers_end_and_it_goes_on_where_it_was(tmp_path, capsys):
    pytest.importorskip("apache_beam")
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"text number {i}\n" for i in range(6_000)))
    (tmp_path / "slow.py").write_text(TASK.replace("{source!r}", repr(str(texts))))
    words = ["cache", "slow_texts", "--out", str(tmp_path / "out"), "--import", str(tmp_path / "slow.py")]
    environment = os.environ | {"SLOW": "0.004", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-m", "t2t.launch", *words, "--workers", "2"], env=environment)
    directory = tmp_path / "out/slow_texts"
    wait_for(lambda: list(directory.glob("train*.json")) or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not workers())
    done = {path.with_suffix(".array_record"): path.stat().st_mtime_ns for path in directory.glob("train*.json")}
    assert 1 <= len(done) < 6
    stamps = {file: file.stat().st_mtime_ns for file in done}
    assert run([*words, "--verify"]) == 2
    assert f"{len(done)} of 6 shards are complete" in capsys.readouterr().err
    assert run([*words, "--workers", "1"]) == 0
    assert {file: file.stat().st_mtime_ns for file in done} == stamps
    assert sorted(file.name for file in directory.iterdir()) == [
        "manifest.json",
        *(f"train-{i:05d}-of-00006.array_record" for i in range(6)),
    ]
    assert run([*words, "--verify"]) == 0


def wait_for(found):
    until = time.monotonic() + 300
    while not found():
        assert time.monotonic() < until
        time.sleep(0.02)


def workers():
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if "t2t.data.cached.worker" in line and str(sys.executable) in line]
