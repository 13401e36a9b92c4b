"""What was measured: every sample, its quantiles, and its share of what the machine can do."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

Details = dict[str, float | int | str | bool]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One quantity.

    part:    of the benchmark, "step" for example.
    name:    of the quantity; no other of its part has it.
    unit:    "s", "bytes", "bytes/s", "FLOP/s", "tokens/s", "examples/s", "masks/s", "tokens/core-second", "share" (of 1) or "programs".
    samples: all of them, in the order they were taken.
    share:   of the ceiling `of` that the median reaches; None where nothing bounds it.
    of:      what that ceiling is.
    details: what else there is to know: shapes, counts, seconds of the stages.
    """

    part: str
    name: str
    unit: str
    samples: tuple[float, ...]
    share: float | None = None
    of: str = ""
    details: Details = field(default_factory=dict)

    @property
    def median(self) -> float:
        """The middle of the samples."""
        return self.quantile(0.5)

    def quantile(self, of: float) -> float:
        """Return a quantile of the samples, linear between two of them."""
        return float(np.quantile(self.samples, of))

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, median and the quantiles at 10% and 90% besides."""
        return asdict(self) | {"median": self.median, "low": self.quantile(0.1), "high": self.quantile(0.9)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Measurement:
        """Return what `to_json` wrote. Raises TypeError or KeyError for what it did not write."""
        given = {item.name: values[item.name] for item in fields(cls)}
        return cls(**{**given, "samples": tuple(map(float, given["samples"]))})
