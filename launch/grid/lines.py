"""Progress of a cell's training as occasional single lines, because several processes can print at once."""

from __future__ import annotations

import time
from collections.abc import Callable

from t2t.api.progress import number
from t2t.train.evaluation import EvalResult

EVERY = 30.0
"""Minimum seconds between two progress lines of a training."""


class Lines:
    """Callbacks of the training loop that log plain lines, each starting with `label`."""

    def __init__(self, label: str, log: Callable[[str], None]) -> None:
        self._label, self._log = label, log
        self._total = 0
        self._logged = time.monotonic()

    def on_start(self, total: int, start: int) -> None:
        """Store the number of steps."""
        self._total = total

    def on_log(self, step: int, metrics: dict[str, float]) -> None:
        """Log the loss, at most every `EVERY` seconds."""
        now = time.monotonic()
        if now - self._logged >= EVERY:
            self._logged = now
            self._log(f"{self._label}   step {step:,} of {self._total:,}, loss {number(metrics['loss'])}")

    def on_eval(self, step: int, results: list[EvalResult]) -> None:
        """Do nothing: the grid's table shows the results."""

    def on_message(self, text: str) -> None:
        """Log a message of the training loop."""
        self._log(f"{self._label}   {text}")

    def on_end(self) -> None:
        """Do nothing."""
