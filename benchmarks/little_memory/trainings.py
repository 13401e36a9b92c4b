"""Trainings of the ways to fine-tune, as processes of `t2t train`: what they learned, their peak memory, and the bytes of their checkpoints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.little_memory.cases import Suite, Way, words
from t2t.train.run import CHECKPOINTS

EXAMPLES = "200"


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a training.

    loss:       of the held-out examples of the split "validation", in nats a target token (or text).
    metric:     the suite's metric on them, None if it has none.
    peak:       largest resident memory of the process, in bytes.
    checkpoint: bytes of the files of the last checkpoint.
    """

    loss: float
    metric: float | None
    peak: int
    checkpoint: int


def trained(directory: Path, suite: Suite, way: Way, peak: str) -> Result:
    """Return the result of a training, from DIRECTORY/result.json of its parent if it is there."""
    known = directory.with_name(f"{directory.name}.json")
    if known.is_file():
        return Result(**json.loads(known.read_text(encoding="utf-8")))
    command = [
        "train",
        f"from:{suite.start}",
        "--dir",
        str(directory),
        "--import",
        str(suite.tasks),
        *words(suite, way, peak),
    ]
    command += [
        "--eval-every",
        "0",
        "--evaluation.examples",
        EXAMPLES,
        "--evaluation.samples",
        "0",
        "--checkpoint-every",
        "100000",
        "--log-every",
        "10",
    ]
    most = peak_memory([sys.executable, "-m", "t2t.launch", *command])
    loss, metric = evaluation(directory, suite)
    result = Result(
        loss=loss, metric=metric, peak=most, checkpoint=bytes_of(directory / CHECKPOINTS / str(suite.steps))
    )
    known.write_text(json.dumps(asdict(result)) + "\n", encoding="utf-8")
    return result


# Run by a new interpreter: the system counts the memory of the process that starts a command as the command's own.
_MEASURE = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(process.pid, 0)
os.write(int(sys.argv[1]), str(usage.ru_maxrss).encode())
code = os.waitstatus_to_exitcode(status)
os.kill(os.getpid(), -code) if code < 0 else sys.exit(code)
"""


def peak_memory(command: Sequence[str]) -> int:
    """Run a command and return the largest resident memory of its process, in bytes: at least the 10 MB of an interpreter, which starts it.

    Raises CalledProcessError if it fails.
    """
    reading, writing = os.pipe()
    with os.fdopen(reading) as kilobytes:
        try:
            code = subprocess.call([sys.executable, "-c", _MEASURE, str(writing), *command], pass_fds=[writing])
        finally:
            os.close(writing)
        if code:
            raise subprocess.CalledProcessError(code, list(command))
        return int(kilobytes.read()) * 1024


def evaluation(directory: Path, suite: Suite) -> tuple[float, float | None]:
    """Return the loss and the metric of the evaluation after the last step."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    last = next(line for line in reversed(lines) if f"eval/{suite.task}/loss" in line)
    return last[f"eval/{suite.task}/loss"], None if suite.metric is None else last[f"eval/{suite.task}/{suite.metric}"]


def bytes_of(directory: Path) -> int:
    """Return the bytes of all files in a directory."""
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
