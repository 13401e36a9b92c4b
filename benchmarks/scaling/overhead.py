"""Python's time a step: how long the call of a step takes to return, and what the training loop does besides on the host.

The pieces are the loop's own (`t2t.train.loop`), each timed by itself while the devices have nothing to do; what is done every `log_every` steps is shared
among them. Beside the call stands that of a program that takes and gives the same arrays and computes next to nothing: what JAX asks for as many.
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
"""Seconds a step."""
MESHES: dict[str, dict[str, int]] = {
    "1 device": {"data": 1},
    "8 devices, data": {"data": 8},
    "8 devices, fsdp": {"data": 1, "fsdp": 8},
}
KINDS = ("decoder", "encoder_decoder")


def points(rounds: int) -> Mapping[str, Point]:
    """Return meshes of one and of eight virtual devices for both kinds of model."""
    return {
        f"{kind}, {name}": Point(
            arguments={"kind": kind, "mesh": mesh, "rounds": rounds},
            environment=devices(8 if "8" in name else 1),
        )
        for kind in KINDS
        for name, mesh in MESHES.items()
    }


class InMemory:
    """A host's batches that are there at once: the same one again and again."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def __iter__(self) -> Iterator[Batch]:
        """Return itself."""
        return self

    def __next__(self) -> Batch:
        """Return the batch."""
        return self._batch

    def available(self) -> bool:
        """Whether there is one."""
        return True

    def close(self) -> None:
        """Nothing to close."""


class Empty(Stepper):
    """A program with a step's arguments and results that adds 1 to each array of the state."""

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        metrics = jax.eval_shape(program.step(), program.abstract_state(), program.abstract_batch())[1]

        def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
            more = {name: getattr(state, name) for name in ("step", "params", "opt_state", "health")}
            ones = jax.tree.map(lambda x: x + jnp.ones((), x.dtype), more)
            return dataclasses.replace(state, **ones), {
                name: jnp.asarray(state.step, leaf.dtype) for name, leaf in metrics.items()
            }

        jitted = jax.jit(step, out_shardings=(program.shardings, None), donate_argnums=0, keep_unused=True)
        self.step = jitted.lower(program.abstract_state(), program.abstract_batch()).compile()


def measure(kind: str, mesh: dict[str, int], rounds: int) -> Values:
    """Return seconds of each piece, one a round; those of logging per line of the log, and how many steps lie between two."""
    # Long enough that the call returns before the devices are done.
    small: dict[str, Any] = {"num_layers": 4, "d_model": 64, "num_heads": 8, "d_ff": 256, "vocab_size": 512}
    made = experiment(kind, batch_size=16, length=64, mesh=mesh, **small)
    program = Program.of(made, made.mesh.build())
    stepper, empty = Stepper(program), Empty(program)
    stepper()
    empty()
    called, finished, metrics = _calls(stepper, rounds)
    # Not in turns: the other's call finds memory given back to the system and takes three times as long.
    least, _, _ = _calls(empty, rounds)
    pieces = _loop(made, program, metrics, rounds)
    arrays = len(jax.tree.leaves((stepper.state, stepper.batch, stepper.state, metrics)))
    return {"log_every": made.log_every, "arrays": arrays, "step": finished, "call": called, "empty": least, **pieces}


def _calls(stepper: Stepper, rounds: int) -> tuple[list[float], list[float], Metrics]:
    """Return seconds until a call returns and until the devices are done, one a round, and the last metrics."""
    called, finished = [], []
    metrics: dict[str, Any] = {}
    for _ in range(rounds):
        began = time.perf_counter()
        metrics = stepper.dispatch()
        called.append(time.perf_counter() - began)
        jax.block_until_ready((stepper.state, metrics))
        finished.append(time.perf_counter() - began)
    return called, finished, metrics


def _loop(made: Experiment, program: Program, metrics: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    host: Any = InMemory(host_batch(program))
    data = DeviceBatches(host, program.batch_sharding(), made.data.batch_size)
    judge = Judge(made.guard, program.specs)
    meter = Meter(data, judge)
    with (
        tempfile.TemporaryDirectory() as scratch,
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        StopOnSignal() as stop,
        Watchdog(made.guard.step_seconds) as watchdog,
        Checkpoints(Path(scratch) / "checkpoints", made.checkpoint) as checkpoints,
        Records(Path(scratch), Progress(console=Console(file=nowhere)), Ledger()) as records,
    ):
        records.begin(rounds, 0, {})
        records.log(0, {"loss": 1.0}, 0.0)  # the first line opens what the others find open

        def fetch() -> None:
            jax.block_until_ready(next(data))

        def ask(step: int) -> None:
            stop.now()
            watchdog.tick(f"step {step}")

        def due(step: int) -> None:
            checkpoints.due(step)
            made.evaluation.due(step, last=False)

        def log(step: int) -> None:
            for at in range(made.log_every):
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
        began = time.perf_counter()
        piece(step)
        taken.append(time.perf_counter() - began)
    return taken


PIECES = ("call", "batch", "stop, watchdog", "due", "log")


def pieces(values: Values) -> dict[str, float]:
    """Return the median seconds a step of each piece."""
    return {name: median(values[name]) / (values["log_every"] if name == "log" else 1) for name in PIECES}


def table(rows: Rows) -> Table:
    """Return a line a mesh, in microseconds."""
    made, over = [], []
    for name, values in rows.items():
        own = pieces(values)
        total = sum(own.values())
        times = [f"{seconds * 1e6:.0f}" for seconds in own.values()]
        made.append(
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
            "log, a step",
            "in all µs",
            "an empty call",
            "arrays",
            "spread of call",
            "the step itself ms",
        ),
        made,
        (f"over {WITHIN * 1e3:g} ms a step: {'; '.join(over) or 'none'}",),
    )


def draw(figure: Any, rows: Rows) -> None:
    """Draw the pieces on top of each other."""
    axis = figure.subplots()
    left = [0.0] * len(rows)
    for colour, piece in zip(COLOURS, PIECES, strict=False):
        own = [pieces(values)[piece] * 1e3 for values in rows.values()]
        axis.barh(list(rows), own, left=left, color=colour, label=piece)
        left = [before + more for before, more in zip(left, own, strict=True)]
    axis.axvline(WITHIN * 1e3, linestyle="--", color="#8a8f98", linewidth=1)
    axis.invert_yaxis()
    axis.set_xlabel("ms a step on the host")
    axis.legend(frameon=False, fontsize=8)


PART = Part(name="overhead", about=__doc__, points=points, measure=measure, table=table, draw=draw, rounds=200)
