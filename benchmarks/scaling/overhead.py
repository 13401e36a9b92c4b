"""Host time per step: the time until the call of a step returns, and the other work of the training loop on the host.

The pieces are those of the training loop (`t2t.train.loop`). Each piece is timed alone, while the devices are idle. The time of work that runs every
`log_every` steps is divided by `log_every`. For comparison, the table shows the call of an almost empty program with the same inputs and outputs: this
is JAX's overhead for that number of arrays.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

from benchmarks.scaling.experiments import experiment, host_batch
from benchmarks.scaling.part import Part, Point, Rows, Table, Values, devices
from benchmarks.scaling.timing import Stepper, median, spread
from t2t.api.curves import COLOURS
from t2t.api.progress import Progress
from t2t.checkpoint import Checkpoints
from t2t.data.prefetch import DeviceBatches
from t2t.train.experiment import Experiment
from t2t.train.guard import Judge
from t2t.train.ledger import Ledger
from t2t.train.meter import Meter
from t2t.train.program import Program
from t2t.train.records import Records
from t2t.train.state import TrainState
from t2t.train.step import Metrics
from t2t.train.stop import StopOnSignal
from t2t.train.watchdog import Watchdog
from t2t.types import Batch

WITHIN = 1e-3
"""Target for the host time, in seconds per step."""
MESHES: dict[str, dict[str, int]] = {
    "1 device": {"data": 1},
    "8 devices, data": {"data": 8},
    "8 devices, fsdp": {"data": 1, "fsdp": 8},
}
KINDS = ("decoder", "encoder_decoder")


def points(rounds: int) -> Mapping[str, Point]:
    """Return one point per kind of model and mesh, on one or eight virtual devices."""
    return {
        f"{kind}, {name}": Point(
            arguments={"kind": kind, "mesh": mesh, "rounds": rounds},
            environment=devices(8 if "8" in name else 1),
        )
        for kind in KINDS
        for name, mesh in MESHES.items()
    }


class InMemory:
    """Host batches without delay: an endless iterator over the same batch."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def __iter__(self) -> Iterator[Batch]:
        """Return self."""
        return self

    def __next__(self) -> Batch:
        """Return the batch."""
        return self._batch

    def available(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:
        """Do nothing."""


class Empty(Stepper):
    """A program with the arguments and results of a step that only adds 1 to each array of the state."""

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        metrics = jax.eval_shape(program.step(), program.abstract_state(), program.abstract_batch())[1]

        def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
            fields = {name: getattr(state, name) for name in ("step", "params", "opt_state", "health")}
            updated = jax.tree.map(lambda x: x + jnp.ones((), x.dtype), fields)
            return dataclasses.replace(state, **updated), {
                name: jnp.asarray(state.step, leaf.dtype) for name, leaf in metrics.items()
            }

        jitted = jax.jit(step, out_shardings=(program.shardings, None), donate_argnums=0, keep_unused=True)
        self.step = jitted.lower(program.abstract_state(), program.abstract_batch()).compile()


def measure(kind: str, mesh: dict[str, int], rounds: int) -> Values:
    """Return the seconds of each piece in each round. The seconds of "log" are per log line; `log_every` is the number of steps between lines."""
    # The step must be long enough that the call returns before the devices finish.
    small: dict[str, Any] = {"num_layers": 4, "d_model": 64, "num_heads": 8, "d_ff": 256, "vocab_size": 512}
    config = experiment(kind, batch_size=16, length=64, mesh=mesh, **small)
    program = Program.of(config, config.mesh.build())
    stepper, empty = Stepper(program), Empty(program)
    stepper()
    empty()
    called, finished, metrics = _calls(stepper, rounds)
    # Not in turns: if the calls alternate, memory is returned to the system between them, and a call takes three times as long.
    empty_calls, _, _ = _calls(empty, rounds)
    pieces = _loop(config, program, metrics, rounds)
    arrays = len(jax.tree.leaves((stepper.state, stepper.batch, stepper.state, metrics)))
    times = {"step": finished, "call": called, "empty": empty_calls, **pieces}
    return {"log_every": config.log_every, "arrays": arrays, **times}


def _calls(stepper: Stepper, rounds: int) -> tuple[list[float], list[float], Metrics]:
    """Return, for each round, the seconds until the call returns and until the devices finish; and the last metrics."""
    called, finished = [], []
    metrics: dict[str, Any] = {}
    for _ in range(rounds):
        start = time.perf_counter()
        metrics = stepper.dispatch()
        called.append(time.perf_counter() - start)
        jax.block_until_ready((stepper.state, metrics))
        finished.append(time.perf_counter() - start)
    return called, finished, metrics


def _loop(config: Experiment, program: Program, metrics: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    host: Any = InMemory(host_batch(program))
    data = DeviceBatches(host, program.batch_sharding())
    judge = Judge(config.guard, program.specs)
    meter = Meter(data, judge)
    with (
        tempfile.TemporaryDirectory() as scratch,
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        StopOnSignal() as stop,
        Watchdog(config.guard.step_seconds) as watchdog,
        Checkpoints(Path(scratch) / "checkpoints", config.checkpoint) as checkpoints,
        Records(Path(scratch), Progress(console=Console(file=nowhere)), Ledger()) as records,
    ):
        records.begin(rounds, 0, {})
        records.log(0, {"loss": 1.0}, 0.0)  # the first line opens the files

        def fetch() -> None:
            jax.block_until_ready(next(data))

        def ask(step: int) -> None:
            stop.now()
            watchdog.tick(f"step {step}")

        def due(step: int) -> None:
            checkpoints.due(step)
            config.evaluation.due(step, last=False)

        def log(step: int) -> None:
            for at in range(config.log_every):
                meter.add(step + at, metrics)
            reading = meter.read()
            records.log(step, reading.values, data.wait_seconds)
            judge.action(reading.bad, reading.row)

        return {
            "batch": _times(lambda step: fetch(), rounds),
            "stop, watchdog": _times(ask, rounds),
            "due": _times(due, rounds),
            "log": _times(log, rounds),
        }


def _times(piece: Callable[[int], None], rounds: int) -> list[float]:
    taken = []
    for step in range(1, rounds + 1):
        start = time.perf_counter()
        piece(step)
        taken.append(time.perf_counter() - start)
    return taken


PIECES = ("call", "batch", "stop, watchdog", "due", "log")


def pieces(values: Values) -> dict[str, float]:
    """Return the median seconds per step of each piece."""
    return {name: median(values[name]) / (values["log_every"] if name == "log" else 1) for name in PIECES}


def table(rows: Rows) -> Table:
    """Return one line per point, in microseconds."""
    cells, over = [], []
    for name, values in rows.items():
        medians = pieces(values)
        total = sum(medians.values())
        times = [f"{seconds * 1e6:.0f}" for seconds in medians.values()]
        cells.append(
            [
                name,
                *times,
                f"{total * 1e6:.0f}",
                f"{median(values['empty']) * 1e6:.0f}",
                f"{values['arrays']}",
                f"{spread(values['call']):.0%}",
                f"{median(values['step']) * 1e3:.1f}",
            ]
        )
        if total > WITHIN:
            over.append(name)
    return Table(
        (
            "",
            "call",
            "batch",
            "stop, watchdog",
            "due",
            "log, per step",
            "total µs",
            "empty call",
            "arrays",
            "spread of call",
            "whole step ms",
        ),
        cells,
        (f"over {WITHIN * 1e3:g} ms per step: {'; '.join(over) or 'none'}",),
    )


def draw(figure: Any, rows: Rows) -> None:
    """Plot the pieces as stacked bars."""
    axis = figure.subplots()
    left = [0.0] * len(rows)
    for colour, piece in zip(COLOURS, PIECES, strict=False):
        widths = [pieces(values)[piece] * 1e3 for values in rows.values()]
        axis.barh(list(rows), widths, left=left, color=colour, label=piece)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axis.axvline(WITHIN * 1e3, linestyle="--", color="#8a8f98", linewidth=1)
    axis.invert_yaxis()
    axis.set_xlabel("host time, ms per step")
    axis.legend(frameon=False, fontsize=8)


PART = Part(name="overhead", about=__doc__, points=points, measure=measure, table=table, draw=draw, rounds=200)
