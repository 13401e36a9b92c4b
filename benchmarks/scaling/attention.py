"""Memory of attention against length: "einsum" holds all logits, "chunked" those of a block of queries. Compiled, not run."""

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
    """Return lengths with both backends."""
    return {
        f"{backend} {length}": Point(arguments={"backend": backend, "length": length}, environment=devices(1))
        for backend in BACKENDS
        for length in LENGTHS
    }


def measure(backend: str, length: int) -> Values:
    """Return the temporaries of the step of a decoder of one row, in bytes, as the compiler tells them."""
    small: dict[str, Any] = {"num_layers": LAYERS, "d_model": 256, "num_heads": HEADS, "d_ff": 1024, "vocab_size": 512}
    made = experiment("decoder", batch_size=1, length=length, attention=backend, remat="full", **small)
    program = Program.of(made, made.mesh.build(jax.devices()[:1]))
    compiled: Any = program.step()
    analysis = compiled.lower(program.abstract_state(), program.abstract_batch()).compile().memory_analysis()
    return {"temporaries": analysis.temp_size_in_bytes}


def table(rows: Rows) -> Table:
    """Return a line a length and backend."""
    made = []
    series: dict[str, list[tuple[int, float]]] = {}
    for name, values in rows.items():
        backend, length = name.split(" ")
        series.setdefault(backend, []).append((int(length), values["temporaries"]))
        logits = HEADS * int(length) ** 2 * 4
        made.append([name, size(values["temporaries"]), f"{values['temporaries'] / int(length):,.0f}", size(logits)])
    notes = [
        f"{backend}: memory grows as length to the power of {order(found):.2f}"
        for backend, found in series.items()
        if len(found) > 1
    ]
    return Table(("", "temporaries", "bytes a token", "one layer's logits"), made, notes)


def order(found: list[tuple[int, float]]) -> float:
    """Return the exponent p of memory ~ length^p, between the two longest."""
    (before, less), (length, more) = sorted(found)[-2:]
    return float(np.log(more / less) / np.log(length / before))


def draw(figure: Any, rows: Rows) -> None:
    """Draw memory against length."""
    series: dict[str, tuple[list[float], list[float]]] = {}
    for name, values in rows.items():
        backend, length = name.split(" ")
        xs, ys = series.setdefault(backend, ([], []))
        xs.append(int(length))
        ys.append(values["temporaries"] / 2**20)
    lines(figure.subplots(), series, x="length of the row", y="MiB of temporaries", log=True)


PART = Part(name="attention", about=__doc__, points=points, measure=measure, table=table, draw=draw)
