"""What a part of the benchmark is: points to measure, how, and how they are shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Arguments = Mapping[str, Any]
Values = dict[str, Any]
Rows = Mapping[str, Values]
"""What was measured, by the point's name."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One thing to measure, in a fresh process.

    arguments:   keyword arguments of the part's `measure`, JSON values; a kept result is of use only where they are the same.
    environment: of that process, besides what it inherits; must be there before JAX starts.
    cores:       how many it may use; None for all.
    """

    arguments: Arguments
    environment: Mapping[str, str] = field(default_factory=dict)
    cores: int | None = None


@dataclass(frozen=True)
class Table:
    """Lines of text under a header, and what is to be said of them below."""

    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Part:
    """One question about how cost grows.

    points:  (rounds) -> points by name; rounds: how often each thing is timed.
    measure: the arguments of a point -> JSON values; runs in the point's own process.
    table:   what is shown of the points measured so far.
    draw:    the same as a picture, on a matplotlib Figure.
    rounds:  unless told otherwise.
    """

    name: str
    about: str
    points: Callable[[int], Mapping[str, Point]]
    measure: Callable[..., Values]
    table: Callable[[Rows], Table]
    draw: Callable[[Any, Rows], None]
    rounds: int = 5


def devices(count: int) -> dict[str, str]:
    """Return the environment of a process with that many virtual CPU devices, and huge pages as the command line asks for them (`t2t.launch.memory`)."""
    return {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    }
