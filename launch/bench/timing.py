"""Take repeated samples within limits."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeVar

import jax

from t2t.limits import Configuration, Range

T = TypeVar("T")

LEAST = 3
"""Minimum number of samples, even if they exceed the time limit. A median of fewer samples is unreliable. `Limits.repeats` can be smaller."""
_COMPILED = "/jax/core/compile/backend_compile_duration"


@dataclass(frozen=True, kw_only=True)
class Limits(Configuration):
    """Limits for one quantity: measure until there are `repeats` samples or `seconds` are over, whichever comes first."""

    repeats: Annotated[int, Range(1, 1_000_000)] = 20
    seconds: Annotated[float, Range(1e-12, 1e7, typical=0.1)] = 5.0

    def divided(self, by: int) -> Limits:
        """Return the limits for one of `by` quantities that share the seconds."""
        return replace(self, seconds=self.seconds / by)


def repeat(sample: Callable[[], T], limits: Limits, *, warmups: int = 1, least: int = LEAST) -> list[T]:
    """Return repeated samples, after `warmups` discarded ones."""
    for _ in range(warmups):
        sample()
    until = time.perf_counter() + limits.seconds
    found: list[T] = []
    while len(found) < limits.repeats and (len(found) < least or time.perf_counter() < until):
        found.append(sample())
    return found


def seconds_of(function: Callable[..., Any], *arguments: Any) -> float:
    """Return the seconds from a call until its result is available on the devices."""
    began = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - began


@contextlib.contextmanager
def programs_compiled() -> Iterator[list[float]]:
    """Collect the compile time in seconds of each program that XLA compiles, or loads from its cache, inside."""
    found: list[float] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event == _COMPILED:
            found.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
