"""What a run leaves behind besides checkpoints, written and shown by process 0 alone."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import jax

from t2t.errors import writing
from t2t.train import ledger
from t2t.train.evaluation import EvalResult, summary, write
from t2t.train.ledger import Ledger
from t2t.train.machine import machine
from t2t.train.metric_log import MetricsWriter


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


class Records:
    """Writes metrics, evaluations, the ledger and the machine into the run directory, and tells the observer. Other processes' do nothing."""

    def __init__(self, directory: Path, observer: Observer, times: Ledger) -> None:
        self._directory, self._observer, self._times = directory, observer, times
        self._leads = jax.process_index() == 0
        self._writer: MetricsWriter | None = None
        self._start = 0
        self._closing = contextlib.ExitStack()
        self._notes: list[str] | None = []

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.close()

    def say(self, text: str) -> None:
        """Tell something worth a line."""
        if self._leads:
            self._observer.on_message(text)

    def note(self, text: str) -> None:
        """Tell how the training begins, once it does: where it is refused, the refusal is all that is told."""
        if self._notes is None:
            self.say(text)
        else:
            self._notes.append(text)

    def begin(self, total: int, start: int, facts: Mapping[str, int]) -> None:
        """Training begins at step `start`: lines of later steps, of a stretch that was cut off, go. facts: for machine.json, beside the machine's."""
        notes, self._notes = self._notes or [], None
        for text in notes:
            self.say(text)
        self._start = start
        described = {**machine(), **facts}  # on all processes: it may ask all devices
        if not self._leads:
            return
        self._writer = self._closing.enter_context(MetricsWriter(self._directory, start=start))
        (self._directory / "machine.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        self._observer.on_start(total, start)
        self._closing.callback(self._observer.on_end)

    def log(self, step: int, values: dict[str, float], waited: float) -> None:
        """Metrics of the steps since the last call. waited: seconds that the process has waited for data in all."""
        if self._writer is None:
            return
        times = self._times.totals(waited)
        values = {**values, "goodput": times["train"] / max(sum(times.values()), 1e-9)}
        self._writer.write(step, values)
        self._observer.on_log(step, values)
        self.account(step, waited)

    def evaluated(self, step: int, results: Sequence[EvalResult]) -> dict[str, float]:
        """Keep an evaluation; return its summary."""
        values = summary(results)
        if self._writer is not None:
            write(self._directory, step, results)
            self._writer.write(step, values)
            self._observer.on_eval(step, list(results))
        return values

    def account(self, step: int, waited: float) -> None:
        """Add a line to the ledger."""
        if self._leads:
            path = self._directory / ledger.FILE
            with writing(path), path.open("a", encoding="utf-8") as file:
                file.write(self._times.line(step, self._start, waited))

    def rewind(self, step: int, waited: float) -> None:
        """Drop the metrics of later steps and count their time as lost: the run goes back."""
        if self._writer is not None:
            self._times.go_back(step, waited)
            self._writer.close()
            self._writer = self._closing.enter_context(MetricsWriter(self._directory, start=step))
