"""Results file of a benchmark: the machine, the options and every sample."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import t2t
from t2t import config
from t2t.errors import UserError, writing
from t2t.json_files import read_json
from t2t.launch.bench.measurement import Measurement
from t2t.launch.bench.timing import Limits
from t2t.train.experiment import Experiment
from t2t.train.machine import machine


@dataclass(frozen=True, kw_only=True)
class Results:
    """The results so far.

    recipe:       name of the recipe.
    options:      options of the recipe from the command line.
    settings:     settings of the benchmark: limits, rows, source of the batches.
    experiment:   the whole configuration, as in run.json.
    machine:      see `t2t.train.machine`, and the version of t2t.
    measurements: measurements, in order.
    notes:        conventions, and skipped parts with reasons.
    """

    recipe: str
    options: tuple[str, ...]
    settings: dict[str, Any]
    experiment: dict[str, Any]
    machine: dict[str, Any]
    measurements: tuple[Measurement, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def begin(cls, recipe: str, options: Sequence[str], experiment: Experiment, limits: Limits, **more: Any) -> Results:
        """Return results without measurements. Initializes JAX's backend."""
        return cls(
            recipe=recipe,
            options=tuple(options),
            settings={**asdict(limits), **more},
            experiment=config.to_json(experiment),
            machine={"t2t": t2t.__version__, **machine()},
        )

    def added(self, measurement: Measurement) -> Results:
        """Return the results with one more measurement."""
        return replace(self, measurements=(*self.measurements, measurement))

    def noted(self, note: str) -> Results:
        """Return the results with one more note. A repeated note is not added again."""
        return self if note in self.notes else replace(self, notes=(*self.notes, note))

    def of(self, part: str) -> list[Measurement]:
        """Return the measurements of a part."""
        return [it for it in self.measurements if it.part == part]

    def named(self, part: str, name: str) -> Measurement:
        """Return the measurement with this part and name. Raises KeyError if it is missing."""
        for it in self.of(part):
            if it.name == name:
                return it
        raise KeyError(f"{part}: {name}")

    def to_json(self) -> dict[str, Any]:
        """Return the results as JSON values."""
        return {
            "recipe": self.recipe,
            "options": list(self.options),
            "settings": self.settings,
            "machine": self.machine,
            "notes": list(self.notes),
            "measurements": [it.to_json() for it in self.measurements],
            "experiment": self.experiment,
        }

    def write(self, path: Path) -> None:
        """Write the results to a file atomically."""
        partial = path.with_name(f"{path.name}.partial")
        with writing(path):
            partial.write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")
            partial.replace(path)


def read(path: Path) -> Results:
    """Read a file that `Results.write` wrote. Raises UserError if the file cannot be read or is not such a file."""
    try:
        values = read_json(path)
        return Results(
            **{name: values[name] for name in ("recipe", "settings", "experiment", "machine")},
            options=tuple(values["options"]),
            measurements=tuple(map(Measurement.from_json, values["measurements"])),
            notes=tuple(values["notes"]),
        )
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(f"{path}: not the results of t2t bench ({type(error).__name__}: {error})") from None
