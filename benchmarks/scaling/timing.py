"""Time functions in turns, so that other work on the machine affects all of them equally."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from benchmarks.scaling.experiments import device_batch
from t2t.train.program import Program


class Stepper:
    """The compiled step of a program with its state, as in the training loop. A call makes one update and waits for the devices."""

    def __init__(self, program: Program) -> None:
        self.state = program.create(0)
        self.batch = device_batch(program)
        self.step = program.compiled(program.abstract_batch())

    def __call__(self) -> None:
        """Make one update."""
        self.dispatch()
        jax.block_until_ready(self.state)

    def dispatch(self) -> dict[str, Any]:
        """Start one update and return its metrics, without waiting for the devices."""
        self.state, metrics = self.step(self.state, self.batch)
        return metrics


def in_turns(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each function in each round, after two warm-up calls."""
    for run in runs.values():
        run()
        run()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - start)
    return taken


def median(times: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(times)


def spread(times: Sequence[float]) -> float:
    """Return half of the interquartile range divided by the median; 0 if there are fewer than 4 times."""
    if len(times) < 4:
        return 0.0
    low, middle, high = statistics.quantiles(times, n=4)
    return (high - low) / 2 / middle
