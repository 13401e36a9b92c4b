"""Collect the metrics of steps, and wait for the devices only when they are read."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax

from t2t.data.prefetch import DeviceBatches
from t2t.train.guard import BadStep, Judge, mean_of_good
from t2t.train.step import Metrics

RUNNING = 2
"""Maximum number of steps in flight. More would not keep the devices busier. They would hide waits for data: the devices would still have work."""
_OF_GUARD = ("bad", "bad_tensor", "bad_row", "loss_mean")


@dataclass(frozen=True)
class Reading:
    """The metrics of the steps since the last reading.

    values: means over the good steps (over all steps if none is good), and rates.
    bad:    the bad steps.
    row:    number of bad steps in a row up to now.
    """

    values: dict[str, float]
    bad: list[BadStep]
    row: int


class Meter:
    """Collects the metrics of each step as device arrays; `read` waits for them. Evaluations and checkpoints do not count as step time."""

    def __init__(self, data: DeviceBatches, judge: Judge) -> None:
        self._data, self._judge = data, judge
        self._steps: list[int] = []
        self._metrics: list[Metrics] = []
        self._restart()

    def _restart(self) -> None:
        self._steps, self._metrics = [], []
        self._began, self._waited, self._left_out = time.perf_counter(), self._data.wait_seconds, 0.0

    @property
    def unread(self) -> bool:
        """Whether there are steps that were not read yet."""
        return bool(self._steps)

    def add(self, step: int, metrics: Metrics) -> None:
        """Add the metrics of a step. Returns when at most `RUNNING` steps are in flight."""
        self._steps.append(step)
        self._metrics.append(metrics)
        if len(self._metrics) > RUNNING:
            jax.block_until_ready(self._metrics[-1 - RUNNING]["tokens"])

    @contextlib.contextmanager
    def paused(self, state: Any) -> Iterator[None]:
        """Exclude the time inside the context. Waits first for the steps that lead to `state`: their time counts."""
        jax.block_until_ready(state)
        began = time.perf_counter()
        yield
        self._left_out += time.perf_counter() - began

    def read(self) -> Reading:
        """Return the metrics of the steps since the last reading.

        tokens_per_second: input and target tokens without padding.
        step_seconds:      time of a step.
        data_wait:         fraction of that time spent waiting for data.
        skipped:           number of bad steps since the run started, without those that were undone by a rewind.
        rewinds:           number of rewinds of this process.
        learning_rate:     that of the last step.
        """
        collected = jax.device_get(self._metrics)
        bad = self._judge.bad_steps(self._steps, collected)
        seconds = max(time.perf_counter() - self._began - self._left_out, 1e-9)
        tokens = sum(float(metrics["tokens"]) for metrics in collected)
        wrong = [bool(metrics["bad"]) for metrics in collected]
        counted = [False] * len(wrong) if all(wrong) else wrong
        values = {
            name: mean_of_good([float(metrics[name]) for metrics in collected], counted)
            for name in collected[0]
            if name not in (*_OF_GUARD, "tokens")
        }
        values |= {name: float(collected[-1][name]) for name in ("learning_rate", "skipped")}
        values |= {
            "rewinds": float(self._judge.rewinds),
            "tokens_per_second": tokens / seconds,
            "step_seconds": seconds / len(collected),
            "data_wait": min(1.0, (self._data.wait_seconds - self._waited) / seconds),
        }
        row = int(collected[-1]["bad_row"])
        self._restart()
        return Reading(values, bad, row)
