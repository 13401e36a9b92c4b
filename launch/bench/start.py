"""Measure the time from the command to the first training step and to the first token, in real processes, without and with a compilation cache."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from t2t.decode import MASK
from t2t.errors import UserError
from t2t.json_files import parse_json
from t2t.launch.bench.measurement import Measurement
from t2t.launch.bench.timing import repeat
from t2t.launch.bench.workload import Workload
from t2t.train import ledger

PART = "start"
ONE_STEP = ("--steps", "1", "--log-every", "1", "--checkpoint-every", "1", "--evaluation.split", "None")
CACHE = (
    "JAX_COMPILATION_CACHE_DIR",
    "JAX_ENABLE_COMPILATION_CACHE",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES",
)
"""Environment variables for JAX's compilation cache. They are removed, because T2T_CACHE sets the cache here."""


class First(NamedTuple):
    """Seconds until the end of the first step, and the seconds of its stages from the run's ledger; `python`: before the ledger starts."""

    seconds: float
    stages: dict[str, float]


def measure(work: Workload) -> Iterator[Measurement]:
    """Yield the seconds of `t2t train` and `t2t infer` with the recipe, each in a new process. Raises UserError if one fails."""
    with tempfile.TemporaryDirectory(prefix="t2t-bench-", dir=work.scratch) as name:
        directory = Path(name)
        counter = itertools.count()

        def cold() -> First:
            place = next(counter)
            return train(work, directory / f"cold-{place}", directory / f"cache-{place}")

        def warm() -> First:
            return train(work, directory / f"warm-{next(counter)}", directory / "cache-0")

        for condition, sample in (("nothing compiled before", cold), ("all compiled before", warm)):
            work.log(f"start: t2t train, {condition}")
            found = repeat(sample, work.limits, warmups=0, least=1)
            yield _trained(f"first step, {condition}", found)
        words = ["infer", str(directory / "cold-0"), "--text", _text(work), *_limit(work)]
        cache, places = directory / "infer", itertools.count()
        for condition, request in (
            ("nothing compiled before", lambda: answer(words, directory / f"infer-{next(places)}")),
            ("all compiled before", lambda: answer(words, cache)),
        ):
            work.log(f"start: t2t infer, {condition}")
            seconds = repeat(request, work.limits, warmups=0 if "nothing" in condition else 1, least=1)
            yield Measurement(part=PART, name=f"first token, {condition}", unit="s", samples=tuple(seconds))
        work.log("start: imports of t2t infer")
        imported = imports_tensorflow(words, cache)
        yield Measurement(
            part=PART,
            name="t2t infer imports TensorFlow",
            unit="share",
            samples=(float(imported),),
            details={"imported": imported},
        )


def train(work: Workload, run: Path, cache: Path) -> First:
    """Train one step in a new process and return its time from the run's ledger. Raises UserError if the training fails."""
    words = ["train", work.recipe, "--dir", str(run), *work.options, *ONE_STEP]
    began = time.time()
    process = _process(words, cache)
    _, errors = _communicate(process)
    _check(process, words, errors)
    path = run / ledger.FILE
    line = parse_json(path.read_bytes().splitlines()[0], where=str(path), shape=dict)
    stages = {"python": line["began"] - began, **line["seconds"]}
    return First(seconds=line["time"] - began, stages={name: value for name, value in stages.items() if value})


def answer(words: Sequence[str], cache: Path) -> float:
    """Return the seconds from the command to the first line of its output. Raises UserError if the command fails."""
    began = time.perf_counter()
    process = _process(words, cache)
    assert process.stdout is not None
    try:
        process.stdout.readline()
        seconds = time.perf_counter() - began
    except BaseException:
        process.kill()
        raise
    _, errors = _communicate(process)
    _check(process, words, errors)
    return seconds


def imports_tensorflow(words: Sequence[str], cache: Path) -> bool:
    """Return whether a command imports TensorFlow, according to Python's import log."""
    process = _process(words, cache, PYTHONPROFILEIMPORTTIME="1")
    _, errors = _communicate(process)
    _check(process, words, errors)
    return any(
        line.startswith("import time:") and line.split("|")[-1].strip() == "tensorflow" for line in errors.splitlines()
    )


def _trained(name: str, found: Sequence[First]) -> Measurement:
    stages = {stage: sum(it.stages.get(stage, 0.0) for it in found) / len(found) for stage in found[0].stages}
    return Measurement(
        part=PART,
        name=name,
        unit="s",
        samples=tuple(it.seconds for it in found),
        details={stage: round(value, 3) for stage, value in stages.items()},
    )


def _text(work: Workload) -> str:
    return f"a {MASK}" if work.experiment.model.can("fill_mask") else "a"


def _limit(work: Workload) -> list[str]:
    model = work.experiment.model
    second = ["--second", "a"] if model.can("find_span") else []
    return ["--max-length", "1"] if model.can("generate") else second


def _process(words: Sequence[str], cache: Path, **more: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name not in CACHE}
    return subprocess.Popen(
        [sys.executable, "-m", "t2t.launch", *words],
        env={**environment, "T2T_CACHE": str(cache), **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _communicate(process: subprocess.Popen[str]) -> tuple[str, str]:
    try:
        return process.communicate()
    except BaseException:
        process.kill()
        process.wait()
        raise


def _check(process: subprocess.Popen[str], words: Sequence[str], errors: str) -> None:
    if process.returncode:
        last = (errors.strip().splitlines() or ["no output"])[-1]
        raise UserError(
            f"t2t {' '.join(words[:2])} ended with code {process.returncode}: {last.removeprefix('error: ')}"
        )
