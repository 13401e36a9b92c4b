"""`t2t launch local --restarts`, as people run it: a training of two processes, one of them killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.faults.training import arrays, differences, losses

pytestmark = pytest.mark.faults

RECIPE = """
from dataclasses import replace
from t2t import tasks
from tests.faults.training import TINY

tasks.mix("faults_mixture", {"reverse_words": 2, "sort_numbers": 1}, replace=True)


def tiny():
    return replace(TINY, steps=60)
"""


def launched(recipe: Path, directory: Path, cache: Path) -> subprocess.Popen:
    words = ["launch", "local", "-n", "2", "--devices-per-process", "2", "--restarts", "1"]
    words += ["--", "train", f"{recipe}:tiny", "--dir", str(directory)]
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    command = [sys.executable, "-m", "t2t.launch", *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_killed_training_is_started_again_and_ends_as_if_nothing_had_happened(tmp_path, compiled):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(RECIPE)
    whole = launched(recipe, tmp_path / "whole", compiled)
    said = whole.communicate(timeout=300)[0]
    assert whole.returncode == 0, said
    assert "restart" not in said

    training = launched(recipe, tmp_path / "run", compiled)
    told: list[str] = []
    reader = threading.Thread(target=lambda: told.extend(training.stdout))
    reader.start()
    until = time.monotonic() + 300
    while len(list((tmp_path / "run/checkpoints").glob("*/checksums-*.json"))) < 2:
        assert training.poll() is None, "".join(told)
        assert time.monotonic() < until, "".join(told)
        time.sleep(0.05)
    (_, second) = Path(f"/proc/{training.pid}/task/{training.pid}/children").read_text().split()
    os.kill(int(second), signal.SIGKILL)
    assert training.wait(300) == 0, "".join(told)
    reader.join()
    text = "".join(told)
    print(text)
    assert "was killed by SIGKILL" in text
    assert "restart 1 of 1" in text
    assert "resuming from step" in text
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert differences(arrays(tmp_path / "whole"), arrays(tmp_path / "run")) == []
