"""Step time by number of tokens. The time grows linearly with the number of rows. Longer rows with the same number of tokens add attention cost."""

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
    """Return both series for both kinds of model. One process times all sizes of a series, in turns."""
    return {
        f"{kind} {series}": Point(arguments={"kind": kind, "shapes": shapes, "rounds": rounds}, environment=devices(1))
        for kind in KINDS
        for series, shapes in (
            ("rows", [[rows, LENGTH] for rows in ROWS]),
            ("length", [[TOKENS // length, length] for length in LENGTHS]),
        )
    }


def measure(kind: str, shapes: Sequence[tuple[int, int]], rounds: int) -> Values:
    """Return the tokens, FLOPs and times in seconds of a step for each shape (rows, length)."""
    small: dict[str, Any] = {"num_layers": 4, "d_model": 128, "num_heads": 4, "d_ff": 512, "vocab_size": 1024}
    programs = {}
    for rows, length in shapes:
        # An encoder-decoder has half of the tokens in the encoder and half in the decoder.
        stack_length = length if kind == "decoder" else length // 2
        config = experiment(kind, batch_size=rows, length=stack_length, **small)
        programs[f"{rows} x {length}"] = Program.of(config, config.mesh.build())
    taken = in_turns({name: Stepper(program) for name, program in programs.items()}, rounds)
    return {
        "shapes": [list(shape) for shape in shapes],
        "tokens": [rows * length for rows, length in shapes],
        "flops": [flops.count(program).total for program in programs.values()],
        "seconds": list(taken.values()),
    }


def fit(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """Return (a, b, residual) of the fit y = a + b x by least squares of relative errors. The residual is the largest relative error."""
    weights = 1 / np.asarray(y)
    slope, intercept = np.polyfit(np.asarray(x, float), np.asarray(y), 1, w=weights)
    predicted = intercept + slope * np.asarray(x)
    return float(intercept), float(slope), float(np.max(np.abs(predicted * weights - 1)))


def table(rows: Rows) -> Table:
    """Return one line per shape, with the fits as notes."""
    cells, notes = [], []
    for name, values in rows.items():
        medians = [median(times) for times in values["seconds"]]
        for place, ((count, length), tokens) in enumerate(zip(values["shapes"], values["tokens"], strict=True)):
            seconds, operations = medians[place], values["flops"][place]
            cells.append(
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
        x, what = (values["tokens"], "token") if series == "rows" else (values["flops"], "FLOP")
        intercept, slope, residual = fit(x, medians)
        notes.append(
            f"{name}: {intercept * 1e3:.2f} ms + {slope * 1e6:.3g} µs per {what}, largest residual {residual:.1%};"
            f" from the first to the last shape, the time per token grows by {medians[-1] / values['tokens'][-1] / (medians[0] / values['tokens'][0]):.2f}x"
            f" and the FLOPs per token by {values['flops'][-1] / values['tokens'][-1] / (values['flops'][0] / values['tokens'][0]):.2f}x"
        )
    return Table(("", "tokens", "ms", "spread", "µs per token", "GFLOP/s"), cells, notes)


def draw(figure: Any, rows: Rows) -> None:
    """Plot time by tokens, and time per token by length."""
    left, right = figure.subplots(1, 2)
    by_rows, by_length = {}, {}
    for name, values in rows.items():
        kind, series = name.split(" ")
        medians = [median(times) for times in values["seconds"]]
        if series == "rows":
            by_rows[kind] = (values["tokens"], medians)
        else:
            per_token = [seconds / tokens * 1e6 for seconds, tokens in zip(medians, values["tokens"], strict=True)]
            by_length[kind] = ([length for _, length in values["shapes"]], per_token)
    lines(left, by_rows, x=f"tokens per step, in rows of {LENGTH}", y="seconds per step", log=True)
    lines(right, by_length, x=f"length of rows, {TOKENS:,} tokens per step", y="µs per token", log=True)


PART = Part(name="tokens", about=__doc__, points=points, measure=measure, table=table, draw=draw, rounds=7)
