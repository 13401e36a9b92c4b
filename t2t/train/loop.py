"""The training loop."""

from __future__ import annotations

import contextlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
from jax.sharding import Mesh

from t2t.checkpoint import Checkpoints
from t2t.metrics import MetricsWriter
from t2t.nn.model import Model
from t2t.sharding import DEFAULT_RULES, activate
from t2t.train.evaluation import EvalResult, Evaluator, write
from t2t.train.experiment import Experiment
from t2t.train.machine import machine
from t2t.train.run import CHECKPOINTS, RunRecord
from t2t.train.start import initial_state
from t2t.train.state import TrainState, abstract_state, state_shardings
from t2t.train.step import make_step
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
    model = experiment.model.build()
    transform = experiment.optimizer.build(model.specs)
    shardings = state_shardings(model, transform, mesh)
    abstract = abstract_state(model, transform, shardings)

    with contextlib.ExitStack() as stack:
        # Reading data starts with importing TensorFlow and building its graphs: seconds in which the devices' programs compile.
        pool = stack.enter_context(ThreadPoolExecutor(1))
        opening = pool.submit(_open_data, experiment, model, mesh)
        checkpoints = stack.enter_context(Checkpoints(directory / CHECKPOINTS, experiment.checkpoint))
        begun = checkpoints.latest()
        if begun is None:
            state = initial_state(experiment, model, transform, shardings, observer.on_message)
        else:
            state = checkpoints.restore(begun, abstract)
            observer.on_message(f"going on from step {begun} of {directory}")
        data = opening.result()
        stack.callback(data.close)
        if begun is not None:
            data.restore(checkpoints.restore_position(begun))

        start = begun or 0
        writer = MetricsWriter(directory, start=start)
        stack.callback(writer.close)
        (directory / "machine.json").write_text(json.dumps(machine(), indent=2) + "\n", encoding="utf-8")
        step_function = jax.jit(
            make_step(
                model,
                transform,
                experiment.loss,
                learning_rate=experiment.optimizer.schedule.build(),
                microbatches=experiment.microbatches,
            ),
            out_shardings=(shardings, None),
            donate_argnums=0,
        )
        evaluator = Evaluator(model, experiment.evaluation, experiment.resolved_data())
        stop = stack.enter_context(StopOnSignal())
        meter = _Meter()
        observer.on_start(experiment.steps, start)
        step, evaluated = start, {}
        while step < experiment.steps and not stop.requested:
            batch = next(data)
            with activate(mesh, DEFAULT_RULES):  # read while the step is traced, at its first call
                state, metrics = step_function(state, batch)
            step += 1
            meter.add(metrics)
            last = step == experiment.steps
            if last or step % experiment.log_every == 0:
                values = meter.read(data.wait_seconds)
                writer.write(step, values)
                observer.on_log(step, values)
            if _due(step, experiment.evaluation.every, last):
                results = evaluator.evaluate(state.params)
                evaluated = {f"eval/{r.task}/{name}": value for r in results for name, value in r.metrics.items()}
                write(directory, step, results)
                writer.write(step, evaluated)
                observer.on_eval(step, results)
                meter.restart(data.wait_seconds)
            if _due(step, experiment.checkpoint.every, last):
                checkpoints.save(step, state, data.position(), evaluated)
                meter.restart(data.wait_seconds)
        if stop.requested and step > start and checkpoints.latest() != step:
            checkpoints.save(step, state, data.position(), evaluated)
        checkpoints.wait()
        observer.on_end()
        return Outcome(step=step, stopped=step < experiment.steps)


def _due(step: int, every: int, last: bool) -> bool:
    return last or (every > 0 and step % every == 0)


def _open_data(experiment: Experiment, model: Model, mesh: Mesh) -> Any:
    from t2t.data.pipeline import batches  # loads TensorFlow

    raise NotImplementedError


class _Meter:
    """Collects steps' metrics without waiting for them, until they are read."""

    def __init__(self) -> None:
        self._metrics: list[dict[str, jax.Array]] = []
        self._since = time.perf_counter()
        self._waited = 0.0

    def add(self, metrics: dict[str, jax.Array]) -> None:
        self._metrics.append(metrics)

    def restart(self, waited: float) -> None:
        """Leave out the time since the last reading: an evaluation or a checkpoint is no step."""
        self._since, self._waited = time.perf_counter(), waited

    def read(self, waited: float) -> dict[str, float]:
        """Wait for the steps and return their means, and the rates since the last reading."""
        collected = jax.device_get(self._metrics)
        seconds = time.perf_counter() - self._since
        tokens = sum(float(metrics["tokens"]) for metrics in collected)
        values = {
            name: sum(float(metrics[name]) for metrics in collected) / len(collected)
            for name in collected[0]
            if name != "tokens"
        }
        values["learning_rate"] = float(collected[-1]["learning_rate"])
        values |= {
            "tokens_per_second": tokens / seconds,
            "step_seconds": seconds / len(collected),
            "data_wait": min(1.0, (waited - self._waited) / seconds),
        }
        self._metrics = []
        self.restart(waited)
        return values
