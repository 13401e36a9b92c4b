"""Code of the user's that is called while a run trains.

A callback is called on every process of a run, with values that all processes have alike. It gets facts, which it cannot change, and can ask for a stop.
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
    """What every callback is told.

    directory: the run's. step: updates made so far. total: those that the run is to make.
    """

    directory: Path
    step: int
    total: int


@dataclass(frozen=True, kw_only=True)
class StepFacts(Facts):
    """metrics: the training metrics where they are logged at this step (every `log_every` steps), {} between."""

    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class EvaluationFacts(Facts):
    """An evaluation.

    results: one a task. metrics: their summary, "eval/loss" and "eval/TASK/METRIC", as RUN/metrics.jsonl has it.
    """

    results: tuple[EvalResult, ...]
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class CheckpointFacts(Facts):
    """path: the checkpoint's directory, which is complete."""

    path: Path


@dataclass(frozen=True, kw_only=True)
class EndFacts(Facts):
    """stopped: whether training was stopped before its last step."""

    stopped: bool


class Control:
    """What a callback can ask for."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop

    def stop(self) -> None:
        """Stop after this step: save, and end the training. Of several processes, one that asks stops all."""
        self._stop()


class Callback:
    """Base of callbacks: override what you need. A method that returns True asks for a stop, as `control.stop()` does.

    Training waits for a callback. What it raises ends the training.
    """

    def on_step(self, facts: StepFacts, control: Control) -> bool | None:
        """Handle an update that has been made; the devices may still be computing it."""

    def on_evaluation(self, facts: EvaluationFacts, control: Control) -> bool | None:
        """Handle an evaluation."""

    def on_checkpoint(self, facts: CheckpointFacts, control: Control) -> bool | None:
        """Handle a checkpoint, which is complete: training waits until it is written."""

    def on_end(self, facts: EndFacts, control: Control) -> bool | None:
        """Handle the end of the training, after the last checkpoint. Not called where an error ends it."""


class _Checkpoints(Protocol):
    def wait(self) -> None: ...


class Callbacks:
    """Calls the callbacks of a training.

    stop: asks for a stop, see `t2t.train.stop.StopOnSignal.ask`.
    """

    def __init__(self, callbacks: Sequence[Callback], directory: Path, total: int, stop: Callable[[], None]) -> None:
        self._callbacks, self._directory, self._total = tuple(callbacks), directory, total
        self._control = Control(stop)

    def step(self, step: int, metrics: Mapping[str, float] | None) -> None:
        """An update was made. metrics: None where none are logged."""
        for callback in self._callbacks:
            facts = StepFacts(
                directory=self._directory, step=step, total=self._total, metrics=MappingProxyType(dict(metrics or {}))
            )
            self._answer(callback.on_step(facts, self._control))

    def evaluation(self, step: int, results: Sequence[EvalResult], metrics: Mapping[str, float]) -> None:
        """An evaluation ended."""
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
        """A checkpoint is being written to `folder`/`step`; it is waited for where a callback wants to know."""
        wanted = [it for it in self._callbacks if type(it).on_checkpoint is not Callback.on_checkpoint]
        if wanted:
            checkpoints.wait()
        for callback in wanted:
            facts = CheckpointFacts(directory=self._directory, step=step, total=self._total, path=folder / f"{step}")
            self._answer(callback.on_checkpoint(facts, self._control))

    def end(self, step: int, *, stopped: bool) -> None:
        """Training ended."""
        for callback in self._callbacks:
            callback.on_end(
                EndFacts(directory=self._directory, step=step, total=self._total, stopped=stopped), self._control
            )

    def _answer(self, answer: bool | None) -> None:
        if answer is True:
            self._control.stop()
