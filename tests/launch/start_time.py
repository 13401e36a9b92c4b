"""Measure the time until commands show their first output: `python -m tests.launch.start_time [--rounds N] [--trees DIR ...] [--out FILE]`.

For the quickstart, this is the time until the first training step, with an empty compilation cache ("cold") and a filled one ("warm"), and the time
until the first output of infer and eval (warm). Trees are checkouts to compare; each round measures all of them. Each measurement is appended to FILE
as a line of JSON. The medians are printed at the end, or on interruption.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

WHAT = ("train cold", "train warm", "infer warm", "eval warm")
LIMIT = 300.0
"""Timeout of a command, in seconds."""


def start(tree: Path, compiled: Path, *words: str) -> tuple[subprocess.Popen, float]:
    """Start a t2t command with the code of a tree. Return the process and the start time."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    environment.pop("GLIBC_TUNABLES", None)
    # An installed package has bytecode. Without it, a start also compiles the source, which takes longer the more of it there is.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    began = time.time()
    command = [sys.executable, "-m", "t2t.launch", *words]
    return subprocess.Popen(
        command, cwd=tree, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ), began


def first_step(tree: Path, compiled: Path, *, until_end: Path | None = None) -> float:
    """Return the seconds until a quickstart logs its first step. If `until_end` is a directory, finish a run of one step and keep it there."""
    with tempfile.TemporaryDirectory() as place:
        run = until_end or Path(place) / "run"
        words = ["--steps", "1", "--evaluation.examples", "1"] if until_end else ["--log-every", "1"]
        process, began = start(tree, compiled, "train", "t5:quickstart", "--dir", str(run), *words)
        try:
            log = run / "metrics.jsonl"
            while time.time() < began + LIMIT and not (log.exists() and log.read_text().endswith("\n")):
                time.sleep(0.02)
                if process.poll() not in (None, 0):
                    raise RuntimeError(f"the training in {tree} ended with {process.returncode}")
            logged = json.loads(log.read_text().splitlines()[0])["time"]
            if until_end:
                process.wait(LIMIT)
            return logged - began
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


def answered(tree: Path, compiled: Path, *words: str) -> float:
    """Return the seconds until a command prints its first line."""
    process, began = start(tree, compiled, *words)
    try:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise RuntimeError(f"{words[0]} in {tree} answered nothing")
        return time.time() - began
    finally:
        process.wait(LIMIT)


def measure(what: str, tree: Path, compiled: Path, run: Path) -> float:
    """Measure one of `WHAT`."""
    if what == "train cold":
        with tempfile.TemporaryDirectory() as empty:
            return first_step(tree, Path(empty))
    if what == "train warm":
        return first_step(tree, compiled)
    if what == "infer warm":
        return answered(tree, compiled, "infer", str(run), "--text", "reverse: big old map", "--max-length", "16")
    return answered(tree, compiled, "eval", str(run), "--examples", "8", "--tasks", "reverse_words")


def main() -> None:
    """Measure and print."""
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--rounds", type=int, default=3)
    words.add_argument("--trees", type=Path, nargs="+", default=[Path.cwd()])
    words.add_argument("--what", nargs="+", choices=WHAT, default=WHAT)
    words.add_argument("--out", type=Path, default=Path("start_time.jsonl"))
    given = words.parse_args()
    found: dict[tuple[str, Path], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as place, contextlib.suppress(KeyboardInterrupt):
        cells = []
        for number, tree in enumerate(given.trees):
            compiled, run = Path(place) / f"xla-{number}", Path(place) / f"run-{number}"
            first_step(tree, compiled, until_end=run)
            for what in given.what:  # warm up: run each command once
                if what != "train cold":
                    measure(what, tree, compiled, run)
            cells.append((tree, compiled, run))
        for _ in range(given.rounds):
            for what in given.what:
                for tree, compiled, run in cells:
                    seconds = measure(what, tree, compiled, run)
                    found[what, tree].append(seconds)
                    line = {"what": what, "tree": str(tree), "seconds": round(seconds, 2), "load": os.getloadavg()[0]}
                    with given.out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(line) + "\n")
                    print(json.dumps(line), flush=True)
    for (what, tree), seconds in sorted(found.items()):
        print(
            f"{what:12} {tree!s:24} median {statistics.median(seconds):6.2f} s of {len(seconds)} (least {min(seconds):.2f})"
        )


if __name__ == "__main__":
    main()
