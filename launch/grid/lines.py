"""How a cell's training goes, in a line now and then: several processes may write at once."""

from __future__ import annotations

import time
from collections.abc import Callable

from t2t.api.progress import number
from t2t.train.evaluation import EvalResult

EVERY = 30.0
"""Seconds between two lines of a training."""


class Lines:
    """The train loop's callbacks, as plain lines behind `label`."""

    def __init__(self, label: str, say: Callable[[str], None]) -> None:
        self._label, self._say = label, say
        self._total = 0
        self._said = time.monotonic()

    def on_start(self, total: int, start: int) -> None:
        """Training begins at step `start` of `total`."""
        self._total = total

    def on_log(self, step: int, metrics: dict[str, float]) -> None:
        """Tell the loss, not too often."""
        now = time.monotonic()
        if now - self._said >= EVERY:
            self._said = now
            self._say(f"{self._label}   step {step:,} of {self._total:,}, loss {number(metrics['loss'])}")

    def on_eval(self, step: int, results: list[EvalResult]) -> None:
        """Say nothing: the grid's table has it."""

    def on_message(self, text: str) -> None:
        """Tell what the loop has to say."""
        self._say(f"{self._label}   {text}")

    def on_end(self) -> None:
        """Training ended."""
