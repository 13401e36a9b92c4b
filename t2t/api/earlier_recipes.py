"""Values that recipes had in earlier versions, so that the same command resumes a run that began with them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

from t2t.api.overrides import overridden
from t2t.train.experiment import Experiment
from t2t.train.run import RECORD, read_record

CHANGED: Mapping[str, Mapping[str, Any]] = {"t5:quickstart": {"optimizer.schedule.peak": 3e-3}}
"""Recipe -> name of a value -> what it was in version 0.1.0."""


def as_begun(recipe: str, experiment: Experiment, directory: Path) -> Experiment:
    """Return a recipe's experiment, with the values that the recipe had when the run in `directory` began.

    Only values that the recipe itself changed since are taken from the run. Where there is no run, or one of another recipe, nothing is changed.
    Raises UserError where the run's record is damaged.
    """
    changed = CHANGED.get(recipe, {})
    if not changed or not (directory / RECORD).is_file():
        return experiment
    record = read_record(directory)
    if record.recipe != recipe:
        return experiment
    return overridden(
        experiment,
        {name: was for name, was in changed.items() if reduce(getattr, name.split("."), record.experiment) == was},
    )
