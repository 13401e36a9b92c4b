"""Memory of attention by length. "einsum" stores all logits, "chunked" stores the logits of one block of queries. Programs are compiled, but not run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from benchmarks.scaling.experiments import experiment
from benchmarks.scaling.part import Part, Point, Rows, Table, Values, devices
from benchmarks.scaling.showing import lines, size
from t2t.train.program import Program

LENGTHS = (512, 1024, 2048, 4096, 8192)
BACKENDS = ("einsum", "chunked")
HEADS, LAYERS = 8, 4


def points(rounds: int) -> Mapping[str, Point]:
    """Return one point per backend and length."""
    return {
        f"{backend} {length}": Point(arguments={"backend": backend, "length": length}, environment=devices(1))
        for backend in BACKENDS
        for length in LENGTHS
    }


def measure(backend: str, length: int) -> Values:
    """Return the compiler's temporaries of the step of a decoder with one row, in bytes."""
    small: dict[str, Any] = {"num_layers": LAYERS, "d_model": 256, "num_heads": HEADS, "d_ff": 1024, "vocab_size": 512}
    config = experiment("decoder", batch_size=1, length=length, attention=backend, remat="full", **small)
    program = Program.of(config, config.mesh.build(jax.devices()[:1]))
    step: Any = program.step()
    analysis = step.lower(program.abstract_state(), program.abstract_batch()).compile().memory_analysis()
    return {"temporaries": analysis.temp_size_in_bytes}


def table(rows: Rows) -> Table:
    """Return one line per backend and length."""
    cells = []
    series: dict[str, list[tuple[int, float]]] = {}
    for name, values in rows.items():
        backend, length = name.split(" ")
        series.setdefault(backend, []).append((int(length), values["temporaries"]))
        logits = HEADS * int(length) ** 2 * 4
        cells.append([name, size(values["temporaries"]), f"{values['temporaries'] / int(length):,.0f}", size(logits)])
    notes = [
        f"{backend}: memory grows like length^{order(found):.2f}" for backend, found in series.items() if len(found) > 1
    ]
    return Table(("", "temporaries", "bytes per token", "logits of one layer"), cells, notes)


def order(found: list[tuple[int, float]]) -> float:
    """Return the exponent p of memory ~ length^p, from the two longest lengths."""
    (before, less), (length, more) = sorted(found)[-2:]
    return float(np.log(more / less) / np.log(length / before))


def draw(figure: Any, rows: Rows) -> None:
    """Plot memory by length."""
    series: dict[str, tuple[list[float], list[float]]] = {}
    for name, values in rows.items():
        backend, length = name.split(" ")
        xs, ys = series.setdefault(backend, ([], []))
        xs.append(int(length))
        ys.append(values["temporaries"] / 2**20)
    lines(figure.subplots(), series, x="length of the row", y="MiB of temporaries", log=True)


PART = Part(name="attention", about=__doc__, points=points, measure=measure, table=table, draw=draw)
