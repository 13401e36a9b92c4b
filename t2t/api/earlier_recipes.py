"""Recipe values of earlier versions, so that the same command still resumes a run that started with them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

from t2t.api.overrides import overridden
from t2t.train.experiment import Experiment
from t2t.train.run import RECORD, read_record

CHANGED: Mapping[str, Mapping[str, Any]] = {"t5:quickstart": {"optimizer.schedule.peak": 3e-3}}
"""Recipe -> name of a value -> the value in version 0.1.0."""


def as_begun(recipe: str, experiment: Experiment, directory: Path) -> Experiment:
    """Return a recipe's experiment with the values that the recipe had when the run in `directory` started.

    Only the values in `CHANGED` are taken from the run. The experiment is unchanged if there is no run, or if the run has another recipe.
    Raises UserError if the run's record is damaged.
    """
    changed = CHANGED.get(recipe, {})
    if not changed or not (directory / RECORD).is_file():
        return experiment
    record = read_record(directory)
    if record.recipe != recipe:
        return experiment
    return overridden(
        experiment,
        {name: old for name, old in changed.items() if reduce(getattr, name.split("."), record.experiment) == old},
    )
