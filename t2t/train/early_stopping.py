"""A callback that stops training when a metric no longer improves."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from t2t.errors import UserError, nearest
from t2t.limits import Count, Range, check_fields
from t2t.train import metric_log
from t2t.train.callbacks import Callback, Control, EvaluationFacts


@dataclass(kw_only=True)
class EarlyStopping(Callback):
    """Stop training when an evaluation metric has not improved for `patience` evaluations (Prechelt 1998, "Early stopping - but when?").

    Evaluations from before the run was resumed count too: they are read from RUN/metrics.jsonl.

    Args:
      metric: "eval/loss", the mean loss of the tasks, or "eval/TASK/METRIC".
      patience: number of evaluations without improvement after which training stops.
      mode: "min" if lower is better, "max" if higher is better.
      min_delta: minimum difference to the best value that counts as an improvement.

    Raises:
      UserError: `mode` is unknown or a number is out of range; or, after the first evaluation, the metric does not exist.
    """

    metric: str = "eval/loss"
    patience: Count = 3
    mode: Literal["min", "max"] = "min"
    min_delta: Annotated[float, Range(0.0, 1e9)] = 0.0
    _values: dict[int, float] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.mode not in ("min", "max"):
            raise UserError(
                f"EarlyStopping: mode {self.mode!r} is neither 'min' nor 'max'.{nearest(str(self.mode), ('min', 'max'))}"
            )

    def on_evaluation(self, facts: EvaluationFacts, control: Control) -> bool:
        """Return whether to stop."""
        if self.metric not in facts.metrics:
            raise UserError(
                f"EarlyStopping: the evaluation has no metric {self.metric!r} (metric).{nearest(self.metric, facts.metrics)}"
            )
        if self._values is None:
            self._values = {
                line["step"]: line[self.metric] for line in metric_log.read(facts.directory) if self.metric in line
            }
        # After a rewind, evaluations of later steps no longer count.
        self._values = {step: value for step, value in self._values.items() if step < facts.step}
        self._values[facts.step] = facts.metrics[self.metric]
        return self._stale(list(self._values.values())) >= self.patience

    def _stale(self, values: list[float]) -> int:
        """Return the number of values since the last improvement."""
        best, since = math.inf, 0
        for value in values:
            signed = value if self.mode == "min" else -value
            better = signed < best - self.min_delta  # NaN is never better
            best, since = (signed, 0) if better else (best, since + 1)
        return since
