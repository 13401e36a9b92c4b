"""Which checkpoints are saved and kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from t2t.errors import UserError
from t2t.limits import Configuration, Count, CountOrZero


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig(Configuration):
    """When to save checkpoints, and which ones to keep.

    Args:
        every: number of steps between two checkpoints.
        keep_last: number of newest checkpoints to keep, at least 1.
        keep_best: number of additional checkpoints to keep, the best ones by `best_metric`. A step without that metric, or with NaN, never
            counts as best.
        best_metric: name of a metric of the evaluation at that step. "eval/loss" is the mean loss of the evaluated tasks.
        best_mode: "min" if the lowest value is best, "max" if the highest value is best.
    """

    every: Count = 1000
    keep_last: Count = 3
    keep_best: CountOrZero = 1
    best_metric: str = "eval/loss"
    best_mode: Literal["min", "max"] = "min"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.best_mode not in ("min", "max"):
            raise UserError(f"checkpoint.best_mode: must be min or max, not {self.best_mode!r}")


def ranking(metrics: Mapping[int, Mapping[str, float]], config: CheckpointConfig) -> list[int]:
    """Return the steps that have the metric, best first. Of equal steps, the newest is first."""
    sign = 1 if config.best_mode == "min" else -1
    values = {step: values[config.best_metric] for step, values in metrics.items() if config.best_metric in values}
    return sorted((s for s in values if not math.isnan(values[s])), key=lambda step: (sign * values[step], -step))


def expired(metrics: Mapping[int, Mapping[str, float]], config: CheckpointConfig) -> list[int]:
    """Return the steps to delete, oldest first. metrics: all steps with their metrics."""
    kept = {*sorted(metrics)[-config.keep_last :], *ranking(metrics, config)[: config.keep_best]}
    return sorted(set(metrics) - kept)
