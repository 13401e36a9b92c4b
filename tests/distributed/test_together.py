"""Several real processes with two devices each: they sum, they outlive a killed one, they notice what differs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from t2t.distributed.environment import COORDINATOR, PATIENCE, PROCESS, PROCESSES

ROOT = Path(__file__).parents[2]
TOGETHER = Path(__file__).with_name("together.py")
CODE = "import sys; from t2t.launch.launchers.local import Local, run; sys.exit(run(sys.argv[3:], Local(processes=int(sys.argv[1]), devices_per_process=2, restarts=int(sys.argv[2]))))"


def together(what: str, directory: Path, *, processes: int, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-c",
        CODE,
        str(processes),
        str(restarts),
        sys.executable,
        str(TOGETHER),
        str(directory),
        what,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_ENABLE_COMPILATION_CACHE": "0"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def test_one_killed_ends_all_and_they_start_again(tmp_path):
    began = time.monotonic()
    done = together("survive", tmp_path, processes=2, restarts=1)
    assert done.returncode == 0, done.stderr
    assert re.search(r"launch: process 1 of 2 \(pid \d+\) was killed by SIGKILL .*; ending the others", done.stderr)
    assert "launch: restarting from the last checkpoint (restart 1 of 1)" in done.stderr
    for process in range(2):
        assert f"[{process}] process {process} of 2: 2 of 4 devices, sum 3\n" in done.stdout
        assert done.stdout.count(f"[{process}] survived\n") == 1
    assert "[Gloo]" not in done.stdout
    assert time.monotonic() - began < 60


def test_preflight(tmp_path):
    done = together("preflight", tmp_path, processes=3)
    assert done.returncode == 0, done.stderr
    said: dict[str, dict[str, list[str]]] = {}
    for line in done.stdout.splitlines():
        process, name, text = re.fullmatch(r"\[(\d)\] ([\w']+)[: ](.*)", line).groups()
        said.setdefault(name, {}).setdefault(process, []).append(text.strip())
    assert said["same"]["1"] == ["[0, 1, 2] agree"]
    assert "3 processes, 6 devices, 2 cpu each; python" in said["same"]["0"][0]
    assert "processes 0 to 2 on" in said["same"]["0"][1]
    for name, message in {
        "configuration": r"preflight: host \S+ \(process 2\) has a different configuration \(steps: 10 -> 11\)\. Nothing was started",
        "settings": r"preflight: host \S+ \(process 1\) has XLA_FLAGS --xla_a=1 --xla_b=2 instead of --xla_a=1\. Nothing",
        "directory": r"preflight: host \S+ \(process 2\) does not see in \S+/run1 \(--dir\) the file that process 0 on host \S+ wrote in \S+/run0\.",
        "unwritable": r"host \S+ \(process 0\): \S+/file/run \(--dir\) is not writable: Not a directory",
        "platform": r"preflight: host \S+ \(process 1\) has no cuda device that JAX can use, only 2 cpu, but JAX_PLATFORMS=cuda,cpu requires",
        "mistake": r"process 1 on host \S+: no such file",
        "everyone's": r"no such option",
    }.items():
        texts = {text for texts in said[name].values() for text in texts}
        assert len(texts) == 1, texts  # all processes raise the same
        assert set(said[name]) == {"0", "1", "2"}
        assert re.match(message, texts.pop()), name
    assert said["again"]["2"] == ["[0, 1, 2] agree"]
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("process", [0, 1])
def test_a_process_that_finds_no_others_says_whom_it_waited_for(process):
    environment = {
        **os.environ,
        COORDINATOR: "127.0.0.1:9",  # a port where nobody listens
        PROCESSES: "2",
        PROCESS: str(process),
        PATIENCE: "1",
    }
    if process == 0:
        environment[COORDINATOR] = "no-such-host.invalid:1234"
    code = "from t2t.distributed.start import initialise; initialise()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 1
    assert re.search(
        rf"error: process {process} of 2 on \S+: not all processes connected within 1 s; the coordinator", done.stderr
    )
    assert ("is unreachable from this host" if process else "the name does not resolve on this host") in done.stderr
