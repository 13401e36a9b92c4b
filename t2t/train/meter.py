"""Metrics of steps, collected without waiting for the devices until they are wanted."""

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
"""Steps that may be on their way to be done. More keep the devices no busier, and a wait for data would say nothing: they had work."""
_OF_GUARD = ("bad", "bad_tensor", "bad_row", "loss_mean")


@dataclass(frozen=True)
class Reading:
    """What steps did since the last reading.

    values: means over the good steps (all of them where none was good), and rates. bad: the others. row: how many bad ones in a row, till now.
    """

    values: dict[str, float]
    bad: list[BadStep]
    row: int


class Meter:
    """Collects each step's metrics as device arrays; `read` waits for all of them. Evaluations and checkpoints do not count as time of steps."""

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
        """Whether there are steps since the last reading."""
        return bool(self._steps)

    def add(self, step: int, metrics: Metrics) -> None:
        """Take the metrics of one more step; returns when no more than `RUNNING` steps are left to be done."""
        self._steps.append(step)
        self._metrics.append(metrics)
        if len(self._metrics) > RUNNING:
            jax.block_until_ready(self._metrics[-1 - RUNNING]["tokens"])

    @contextlib.contextmanager
    def paused(self, state: Any) -> Iterator[None]:
        """Leave out what is done inside; first waits for the steps that led to `state`, whose time it is not."""
        jax.block_until_ready(state)
        began = time.perf_counter()
        yield
        self._left_out += time.perf_counter() - began

    def read(self) -> Reading:
        """Return what the steps since the last reading did.

        tokens_per_second: inputs and targets that are not padding. step_seconds: a step's time. data_wait: the share of it spent waiting
        for data. skipped: bad steps since the run began, without those it went back to
        before; rewinds: how often this process went back. learning_rate is the last step's.
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
