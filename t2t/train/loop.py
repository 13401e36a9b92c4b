"""The training loop."""

from __future__ import annotations

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import jax
import optax
from jax.sharding import Mesh

from t2t.checkpoint import Checkpoints
from t2t.data.prefetch import DeviceBatches
from t2t.metrics import MetricsWriter
from t2t.nn.model import Model
from t2t.sharding import DEFAULT_RULES, activate
from t2t.train.evaluation import EvalResult, Evaluator, summary, write
from t2t.train.experiment import Experiment
from t2t.train.machine import machine
from t2t.train.meter import Meter
from t2t.train.run import CHECKPOINTS, RunRecord
from t2t.train.start import initial_state
from t2t.train.state import TrainState, abstract_state, state_shardings
from t2t.train.step import Metrics, Step, make_step
from t2t.train.stop import StopOnSignal
from t2t.types import Batch


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
    model = experiment.model.build()
    transform = experiment.optimizer.build(model.specs)
    shardings = state_shardings(model, transform, mesh)

    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopOnSignal())
        # Reading data begins with building TensorFlow's graphs: seconds in which the devices' programs can compile.
        opening = stack.enter_context(ThreadPoolExecutor(1)).submit(_open_data, experiment, model, mesh)
        checkpoints = stack.enter_context(Checkpoints(directory / CHECKPOINTS, experiment.checkpoint))
        start = checkpoints.latest() or 0
        if start:
            state = checkpoints.restore(start, abstract_state(model, transform, shardings))
            observer.on_message(f"going on from step {start} of {directory}")
        else:
            state = initial_state(record, directory, model, transform, shardings, observer.on_message)
        update = _compiled(experiment, model, transform, shardings, mesh)
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


def _compiled(
    experiment: Experiment, model: Model, transform: optax.GradientTransformation, shardings: TrainState, mesh: Mesh
) -> Step:
    step = make_step(
        model,
        transform,
        experiment.loss,
        learning_rate=experiment.optimizer.schedule.build(),
        microbatches=experiment.microbatches,
    )

    def sharded(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        with activate(mesh):
            return step(state, batch)

    return jax.jit(sharded, out_shardings=(shardings, None), donate_argnums=0)


def _open_data(experiment: Experiment, model: Model, mesh: Mesh) -> DeviceBatches:
    from t2t.data.pipeline import batches  # loads TensorFlow

    data = experiment.resolved_data()
    host = batches(data, model.config.kind, process_index=jax.process_index(), process_count=jax.process_count())
    return DeviceBatches(host, DEFAULT_RULES.sharding(("batch",), (data.batch_size,), mesh), data.batch_size)


def _tell_trimmed(data: DeviceBatches, observer: Observer) -> None:
    counts = data.host.counts
    if counts.trimmed or counts.empty:
        observer.on_message(
            f"of {counts.examples:,} examples read, {counts.trimmed:,} were longer than the lengths and lost their end, "
            f"{counts.empty:,} had nothing to predict and were left out"
        )
