"""The training loop."""

from __future__ import annotations

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from t2t.checkpoint import Checkpoints
from t2t.data.prefetch import DeviceBatches
from t2t.metrics import MetricsWriter
from t2t.sharding import share_of_rows
from t2t.train.evaluation import EvalResult, Evaluator, summary, write
from t2t.train.machine import machine
from t2t.train.meter import Meter
from t2t.train.program import Program
from t2t.train.run import CHECKPOINTS, RunRecord
from t2t.train.start import initial_state
from t2t.train.stop import StopOnSignal


class Observer(Protocol):
    """Whoever wants to show how it goes."""

    def on_start(self, total: int, start: int) -> None:
        """Training begins at step `start` of `total`."""

    def on_log(self, step: int, metrics: dict[str, float]) -> None:
        """Metrics of the steps since the last call."""

    def on_eval(self, step: int, results: list[EvalResult]) -> None:
        """An evaluation ended."""

    def on_message(self, text: str) -> None:
        """Something worth a line."""

    def on_end(self) -> None:
        """Training ended."""


@dataclass(frozen=True)
class Outcome:
    """How training ended: at which step, and whether it was asked to stop before its last one."""

    step: int
    stopped: bool


def train(directory: Path, record: RunRecord, observer: Observer) -> Outcome:
    """Train the run in `directory` from its newest checkpoint, or from the start, to its last step.

    Raises UserError for a configuration that does not fit the data, the checkpoint or the machine.
    """
    experiment = record.experiment
    mesh = experiment.mesh.build()
    program = Program.of(experiment, mesh)
    model = program.model

    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopOnSignal())
        # Reading data begins with building TensorFlow's graphs: seconds in which the devices' programs can compile.
        opening = stack.enter_context(ThreadPoolExecutor(1)).submit(_open_data, program)
        checkpoints = stack.enter_context(Checkpoints(directory / CHECKPOINTS, experiment.checkpoint))
        start = checkpoints.latest() or 0
        if start:
            state = checkpoints.restore(start, program.abstract_state())
            observer.on_message(f"going on from step {start} of {directory}")
        else:
            state = initial_state(record, directory, program, observer.on_message)
        update = program.step()
        data = opening.result()
        stack.callback(data.close)
        if start:
            data.restore(checkpoints.restore_position(start))

        writer = MetricsWriter(directory, start=start)
        stack.callback(writer.close)
        (directory / "machine.json").write_text(json.dumps(machine(), indent=2) + "\n", encoding="utf-8")
        evaluator = Evaluator(model, experiment.evaluation, experiment.resolved_data())
        meter = Meter(data)
        observer.on_start(experiment.steps, start)
        stack.callback(observer.on_end)
        step = saved = start
        while step < experiment.steps and not stop.requested:
            state, metrics = update(state, next(data))
            step += 1
            meter.add(metrics)
            last = step == experiment.steps
            if last or step % experiment.log_every == 0:
                values = meter.read()
                writer.write(step, values)
                observer.on_log(step, values)
            evaluated: dict[str, float] = {}
            if experiment.evaluation.due(step, last=last):
                with meter.paused(state):
                    results = evaluator.evaluate(state.params)
                    evaluated = summary(results)
                    write(directory, step, results)
                    writer.write(step, evaluated)
                    observer.on_eval(step, results)
            if last or checkpoints.due(step) or stop.requested:
                with meter.paused(state):
                    checkpoints.save(step, state, data.position(), evaluated)
                    saved = step
        if saved < step:  # a signal came after the last look
            checkpoints.save(step, state, data.position())
        checkpoints.wait()
        _tell_trimmed(data, observer)
        return Outcome(step=step, stopped=step < experiment.steps)


def _open_data(program: Program) -> DeviceBatches:
    from t2t.data.pipeline import batches  # loads TensorFlow

    data = program.experiment.resolved_data()
    sharding = program.batch_sharding()
    share = share_of_rows(sharding, data.batch_size)
    host = batches(data, program.model.config.kind, process_index=share.index, process_count=share.count)
    return DeviceBatches(host, sharding, data.batch_size, first=share.index * (data.batch_size // share.count))


def _tell_trimmed(data: DeviceBatches, observer: Observer) -> None:
    counts = data.host.counts
    if counts.trimmed or counts.empty:
        observer.on_message(
            f"of {counts.examples:,} examples read, {counts.trimmed:,} were longer than the lengths and lost their end, "
            f"{counts.empty:,} had nothing to predict and were left out"
        )
