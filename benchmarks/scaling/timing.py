"""Medians of times that were taken in turns, so that what else the machine does falls on all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from benchmarks.scaling.experiments import device_batch
from t2t.train.program import Program


class Stepper:
    """A program's compiled step, as the training loop calls it, with its state: call it for one update and wait for the devices."""

    def __init__(self, program: Program) -> None:
        self.state = program.create(0)
        self.batch = device_batch(program)
        self.step = program.compiled(program.abstract_batch())

    def __call__(self) -> None:
        """Make one update."""
        self.dispatch()
        jax.block_until_ready(self.state)

    def dispatch(self) -> dict[str, Any]:
        """Start one update; return its metrics, which the devices may still be at."""
        self.state, metrics = self.step(self.state, self.batch)
        return metrics


def in_turns(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each function, called once a round, after two calls that do not count."""
    for run in runs.values():
        run()
        run()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - began)
    return taken


def median(times: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(times)


def spread(times: Sequence[float]) -> float:
    """Return half the distance between the quartiles, as a share of the median; 0 for fewer than 4 times."""
    if len(times) < 4:
        return 0.0
    low, middle, high = statistics.quantiles(times, n=4)
    return (high - low) / 2 / middle
