"""A measurement: all samples, their quantiles, and the share of a limit of the machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

Details = dict[str, float | int | str | bool]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One measured quantity.

    part:    part of the benchmark, for example "step".
    name:    name of the quantity, unique in its part.
    unit:    "s", "bytes", "bytes/s", "FLOP/s", "tokens/s", "examples/s", "masks/s", "tokens/core-second", "share" (of 1) or "programs".
    samples: all samples, in the order of measurement.
    share:   the median as a share of the ceiling `of`; None if there is no ceiling.
    of:      name of the ceiling.
    details: further information: shapes, counts, seconds of the stages.
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
        """Median of the samples."""
        return self.quantile(0.5)

    def quantile(self, of: float) -> float:
        """Return a quantile of the samples, with linear interpolation."""
        return float(np.quantile(self.samples, of))

    def to_json(self) -> dict[str, Any]:
        """Return the measurement as JSON values, with its median and its 10% and 90% quantiles."""
        return asdict(self) | {"median": self.median, "low": self.quantile(0.1), "high": self.quantile(0.9)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Measurement:
        """Return a measurement from the values of `to_json`. Raises TypeError or KeyError for other values."""
        found = {item.name: values[item.name] for item in fields(cls)}
        return cls(**{**found, "samples": tuple(map(float, found["samples"]))})
