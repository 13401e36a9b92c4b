"""Step time against tokens: more rows of one length cost in proportion; longer rows of as many tokens cost attention besides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.scaling.experiments import KINDS, experiment
from benchmarks.scaling.part import Part, Point, Rows, Table, Values, devices
from benchmarks.scaling.showing import lines
from benchmarks.scaling.timing import Stepper, in_turns, median, spread
from t2t.plan import flops
from t2t.train.program import Program

LENGTH = 128
ROWS = (4, 8, 16, 32, 64)
TOKENS = 8192
LENGTHS = (64, 128, 256, 512, 1024, 2048)


def points(rounds: int) -> Mapping[str, Point]:
    """Return both series for both kinds of model; a series is timed in one process, its sizes in turns."""
    return {
        f"{kind} {series}": Point(arguments={"kind": kind, "shapes": shapes, "rounds": rounds}, environment=devices(1))
        for kind in KINDS
        for series, shapes in (
            ("rows", [[rows, LENGTH] for rows in ROWS]),
            ("length", [[TOKENS // length, length] for length in LENGTHS]),
        )
    }


def measure(kind: str, shapes: Sequence[tuple[int, int]], rounds: int) -> Values:
    """Return, for each shape (rows, length), tokens and operations of a step and its times in seconds."""
    small: dict[str, Any] = {"num_layers": 4, "d_model": 128, "num_heads": 4, "d_ff": 512, "vocab_size": 1024}
    programs = {}
    for rows, length in shapes:
        # An encoder-decoder's tokens are half of them the decoder's.
        own = length if kind == "decoder" else length // 2
        made = experiment(kind, batch_size=rows, length=own, **small)
        programs[f"{rows} x {length}"] = Program.of(made, made.mesh.build())
    taken = in_turns({name: Stepper(program) for name, program in programs.items()}, rounds)
    return {
        "shapes": [list(shape) for shape in shapes],
        "tokens": [rows * length for rows, length in shapes],
        "flops": [flops.count(program).total for program in programs.values()],
        "seconds": list(taken.values()),
    }


def fit(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """Return (a, b, residual) of y = a + b x, by least squares of relative errors; the residual is the largest relative one."""
    weights = 1 / np.asarray(y)
    slope, intercept = np.polyfit(np.asarray(x, float), np.asarray(y), 1, w=weights)
    predicted = intercept + slope * np.asarray(x)
    return float(intercept), float(slope), float(np.max(np.abs(predicted * weights - 1)))


def table(rows: Rows) -> Table:
    """Return a line a shape, and the fits below."""
    made, notes = [], []
    for name, values in rows.items():
        medians = [median(times) for times in values["seconds"]]
        for place, ((count, length), tokens) in enumerate(zip(values["shapes"], values["tokens"], strict=True)):
            seconds, operations = medians[place], values["flops"][place]
            made.append(
                [
                    f"{name}: {count} x {length}",
                    f"{tokens:,}",
                    f"{seconds * 1e3:.1f}",
                    f"{spread(values['seconds'][place]):.1%}",
                    f"{seconds / tokens * 1e6:.2f}",
                    f"{operations / seconds / 1e9:.1f}",
                ]
            )
        series = name.split(" ")[1]
        x, what = (values["tokens"], "token") if series == "rows" else (values["flops"], "operation")
        intercept, slope, residual = fit(x, medians)
        notes.append(
            f"{name}: {intercept * 1e3:.2f} ms + {slope * 1e6:.3g} µs a {what}, largest residual {residual:.1%};"
            f" a token costs {medians[-1] / values['tokens'][-1] / (medians[0] / values['tokens'][0]):.2f} times as much at the end,"
            f" and its operations are {values['flops'][-1] / values['tokens'][-1] / (values['flops'][0] / values['tokens'][0]):.2f} times as many"
        )
    return Table(("", "tokens", "ms", "spread", "µs a token", "GFLOP/s"), made, notes)


def draw(figure: Any, rows: Rows) -> None:
    """Draw time against tokens, and time a token against length."""
    left, right = figure.subplots(1, 2)
    by_rows, by_length = {}, {}
    for name, values in rows.items():
        kind, series = name.split(" ")
        medians = [median(times) for times in values["seconds"]]
        if series == "rows":
            by_rows[kind] = (values["tokens"], medians)
        else:
            own = [seconds / tokens * 1e6 for seconds, tokens in zip(medians, values["tokens"], strict=True)]
            by_length[kind] = ([length for _, length in values["shapes"]], own)
    lines(left, by_rows, x=f"tokens a step, in rows of {LENGTH}", y="seconds a step", log=True)
    lines(right, by_length, x=f"length of rows, {TOKENS:,} tokens a step", y="µs a token", log=True)


PART = Part(name="tokens", about=__doc__, points=points, measure=measure, table=table, draw=draw, rounds=7)
