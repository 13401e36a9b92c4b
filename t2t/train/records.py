"""Write and show the records of a run, on process 0 only: metrics, evaluations, the ledger and the machine."""

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
    """Shows the progress of a training."""

    def on_start(self, total: int, start: int) -> None:
        """Handle the start of training at step `start` of `total`."""

    def on_log(self, step: int, metrics: dict[str, float]) -> None:
        """Handle the metrics of the steps since the last call."""

    def on_eval(self, step: int, results: list[EvalResult]) -> None:
        """Handle the results of an evaluation."""

    def on_message(self, text: str) -> None:
        """Handle a message of one line."""

    def on_end(self) -> None:
        """Handle the end of training."""


class Records:
    """Writes metrics, evaluations, the ledger and the machine into the run directory, and calls the observer. Does nothing on other processes."""

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

    def message(self, text: str) -> None:
        """Show a message of one line."""
        if self._leads:
            self._observer.on_message(text)

    def note(self, text: str) -> None:
        """Show a message when training starts. If an error prevents the start, only the error is shown."""
        if self._notes is None:
            self.message(text)
        else:
            self._notes.append(text)

    def begin(self, total: int, start: int, facts: Mapping[str, int]) -> None:
        """Start the records at step `start` and drop lines of later steps. facts: additional values for machine.json."""
        notes, self._notes = self._notes or [], None
        for text in notes:
            self.message(text)
        self._start = start
        described = {**machine(), **facts}  # on all processes: it may use all devices
        if not self._leads:
            return
        self._writer = self._closing.enter_context(MetricsWriter(self._directory, start=start))
        (self._directory / "machine.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        self._observer.on_start(total, start)
        self._closing.callback(self._observer.on_end)

    def log(self, step: int, values: dict[str, float], waited: float) -> None:
        """Write the metrics of the steps since the last call. waited: total seconds that this process has waited for data."""
        if self._writer is None:
            return
        times = self._times.totals(waited)
        values = {**values, "goodput": times["train"] / max(sum(times.values()), 1e-9)}
        self._writer.write(step, values)
        self._observer.on_log(step, values)
        self.account(step, waited)

    def evaluated(self, step: int, results: Sequence[EvalResult]) -> dict[str, float]:
        """Write the results of an evaluation and return their summary."""
        values = summary(results)
        if self._writer is not None:
            write(self._directory, step, results)
            self._writer.write(step, values)
            self._observer.on_eval(step, list(results))
        return values

    def account(self, step: int, waited: float) -> None:
        """Append a line to the ledger."""
        if self._leads:
            path = self._directory / ledger.FILE
            with writing(path), path.open("a", encoding="utf-8") as file:
                file.write(self._times.line(step, self._start, waited))

    def rewind(self, step: int, waited: float) -> None:
        """Drop the metrics of steps after `step` and count their time as lost."""
        if self._writer is not None:
            self._times.go_back(step, waited)
            self._writer.close()
            self._writer = self._closing.enter_context(MetricsWriter(self._directory, start=step))
