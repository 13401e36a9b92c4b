"""Metrics of steps, collected without waiting for the devices until they are wanted."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import jax

from t2t.data.prefetch import DeviceBatches
from t2t.train.step import Metrics


class Meter:
    """Collects each step's metrics as device arrays; `read` waits for them. Evaluations and checkpoints do not count as time of steps."""

    def __init__(self, data: DeviceBatches) -> None:
        self._data = data
        self._metrics: list[Metrics] = []
        self._restart()

    def _restart(self) -> None:
        self._began, self._waited, self._left_out = time.perf_counter(), self._data.wait_seconds, 0.0

    def add(self, metrics: Metrics) -> None:
        """Take the metrics of one more step."""
        self._metrics.append(metrics)

    @contextlib.contextmanager
    def paused(self, state: Any) -> Iterator[None]:
        """Leave out what is done inside; first waits for the steps that led to `state`, whose time it is not."""
        jax.block_until_ready(state)
        began = time.perf_counter()
        yield
        self._left_out += time.perf_counter() - began

    def read(self) -> dict[str, float]:
        """Return the means over the steps since the last reading, and their rates.

        tokens_per_second: inputs and targets that are not padding. step_seconds: a step's time. data_wait: the share of it spent waiting
        for data. learning_rate is the last step's.
        """
        collected = jax.device_get(self._metrics)
        seconds = max(time.perf_counter() - self._began - self._left_out, 1e-9)
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
            "data_wait": min(1.0, (self._data.wait_seconds - self._waited) / seconds),
        }
        self._metrics = []
        self._restart()
        return values
