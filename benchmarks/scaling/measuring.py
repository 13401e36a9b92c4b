"""Measure the points of a part, each in its own process, and save the results."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.scaling.part import Part, Point, Rows
from benchmarks.scaling.results import Results

ROOT = Path(__file__).parents[2]


def measure(
    part: Part, points: Mapping[str, Point], directory: Path, *, limit: float, log: Callable[[str], None]
) -> Rows:
    """Measure the points that DIR/PART.json does not contain. Return the values of all measured points.

    limit: timeout of a point, in seconds. If a point fails or times out, this is logged, and the next call tries it again.
    log:   called with each line of the log.
    """
    directory.mkdir(parents=True, exist_ok=True)
    results = Results(directory / f"{part.name}.json")
    for number, (name, point) in enumerate(points.items(), 1):
        if results.has(name, point):
            continue
        log(f"{number}/{len(points)} {name} ...")
        start = time.perf_counter()
        found = _in_process(part, point, directory / f"{part.name}.log", limit)
        seconds = time.perf_counter() - start
        if isinstance(found, str):
            log(f"  {found}; see {directory / f'{part.name}.log'}")
        else:
            results.add(name, point, {**found["values"], "measuring_seconds": seconds}, found["machine"])
            log(f"  {seconds:.0f} s")
    return results.rows(points)


def _in_process(part: Part, point: Point, log: Path, limit: float) -> dict | str:
    """Return the results that the process of the point wrote, or the reason of the failure as a string."""
    cores = sorted(os.sched_getaffinity(0))[: point.cores]
    with tempfile.TemporaryDirectory() as scratch, log.open("a", encoding="utf-8") as file:
        out = Path(scratch) / "values.json"
        module = part.measure.__module__
        command = [
            sys.executable,
            "-m",
            "benchmarks.scaling.child",
            module,
            json.dumps(dict(point.arguments)),
            str(out),
        ]
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false", **point.environment},
            stdout=file,
            stderr=file,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            return f"took longer than {limit:g} s (--limit)"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return json.loads(out.read_text(encoding="utf-8")) if code == 0 and out.exists() else f"failed with code {code}"
