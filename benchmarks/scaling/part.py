"""Parts of the benchmark: the points to measure, and how to measure and show them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Arguments = Mapping[str, Any]
Values = dict[str, Any]
Rows = Mapping[str, Values]
"""Measured values by point name."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One measurement, in a new process.

    arguments:   keyword arguments of the part's `measure`, as JSON values. A saved result is reused only if they are the same.
    environment: additional environment variables of the process, set before JAX starts.
    cores:       number of cores that the process can use; None for all.
    """

    arguments: Arguments
    environment: Mapping[str, str] = field(default_factory=dict)
    cores: int | None = None


@dataclass(frozen=True)
class Table:
    """A table of text, with notes below it."""

    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of the benchmark.

    points:  (rounds) -> points by name.
    measure: (arguments of a point) -> JSON values; runs in the process of the point.
    table:   return the table of the points measured so far.
    draw:    plot these points on a matplotlib Figure.
    rounds:  default number of timings.
    """

    name: str
    about: str
    points: Callable[[int], Mapping[str, Point]]
    measure: Callable[..., Values]
    table: Callable[[Rows], Table]
    draw: Callable[[Any, Rows], None]
    rounds: int = 5


def devices(count: int) -> dict[str, str]:
    """Return environment variables for `count` virtual CPU devices, and for huge pages like the command line (`t2t.launch.memory`)."""
    return {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    }
