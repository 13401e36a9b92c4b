"""Callbacks: user code that is called during training.

A callback is called on every process of a run, with the same values on all of them. It gets read-only facts and can request a stop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from t2t.train.evaluation import EvalResult


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Facts that every callback gets.

    directory: the run directory. step: number of updates so far. total: number of updates of the whole run.
    """

    directory: Path
    step: int
    total: int


@dataclass(frozen=True, kw_only=True)
class StepFacts(Facts):
    """Facts after a step. metrics: the training metrics if they are logged at this step (every `log_every` steps), else {}."""

    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class EvaluationFacts(Facts):
    """Facts after an evaluation.

    results: one result per task. metrics: their summary, "eval/loss" and "eval/TASK/METRIC", as in RUN/metrics.jsonl.
    """

    results: tuple[EvalResult, ...]
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class CheckpointFacts(Facts):
    """Facts after a checkpoint. path: the directory of the checkpoint, which is complete."""

    path: Path


@dataclass(frozen=True, kw_only=True)
class EndFacts(Facts):
    """Facts at the end of training. stopped: whether training stopped before its last step."""

    stopped: bool


class Control:
    """Requests that a callback can make."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop

    def stop(self) -> None:
        """Save a checkpoint after this step and end the training. A request on one process stops all processes."""
        self._stop()


class Callback:
    """Base class of callbacks. Override the methods that you need. A method that returns True requests a stop, like `control.stop()`.

    Training waits for a callback. An exception in a callback ends the training.
    """

    def on_step(self, facts: StepFacts, control: Control) -> bool | None:
        """Handle an update. The devices may still be computing it."""

    def on_evaluation(self, facts: EvaluationFacts, control: Control) -> bool | None:
        """Handle an evaluation."""

    def on_checkpoint(self, facts: CheckpointFacts, control: Control) -> bool | None:
        """Handle a checkpoint. Training waits until the checkpoint is complete."""

    def on_end(self, facts: EndFacts, control: Control) -> bool | None:
        """Handle the end of the training, after the last checkpoint. It is not called if an error ends the training."""


class _Checkpoints(Protocol):
    def wait(self) -> None: ...


class Callbacks:
    """Calls the callbacks of a training.

    stop: requests a stop, see `t2t.train.stop.StopOnSignal.ask`.
    """

    def __init__(self, callbacks: Sequence[Callback], directory: Path, total: int, stop: Callable[[], None]) -> None:
        self._callbacks, self._directory, self._total = tuple(callbacks), directory, total
        self._control = Control(stop)

    def step(self, step: int, metrics: Mapping[str, float] | None) -> None:
        """Call the callbacks after an update. metrics: None if none are logged."""
        for callback in self._callbacks:
            facts = StepFacts(
                directory=self._directory, step=step, total=self._total, metrics=MappingProxyType(dict(metrics or {}))
            )
            self._answer(callback.on_step(facts, self._control))

    def evaluation(self, step: int, results: Sequence[EvalResult], metrics: Mapping[str, float]) -> None:
        """Call the callbacks after an evaluation."""
        for callback in self._callbacks:
            facts = EvaluationFacts(
                directory=self._directory,
                step=step,
                total=self._total,
                results=tuple(results),
                metrics=MappingProxyType(dict(metrics)),
            )
            self._answer(callback.on_evaluation(facts, self._control))

    def checkpoint(self, step: int, folder: Path, checkpoints: _Checkpoints) -> None:
        """Call the callbacks for the checkpoint that is written to `folder`/`step`. Wait for it if a callback handles checkpoints."""
        wanted = [it for it in self._callbacks if type(it).on_checkpoint is not Callback.on_checkpoint]
        if wanted:
            checkpoints.wait()
        for callback in wanted:
            facts = CheckpointFacts(directory=self._directory, step=step, total=self._total, path=folder / f"{step}")
            self._answer(callback.on_checkpoint(facts, self._control))

    def end(self, step: int, *, stopped: bool) -> None:
        """Call the callbacks at the end of training."""
        for callback in self._callbacks:
            callback.on_end(
                EndFacts(directory=self._directory, step=step, total=self._total, stopped=stopped), self._control
            )

    def _answer(self, answer: bool | None) -> None:
        if answer is True:
            self._control.stop()
