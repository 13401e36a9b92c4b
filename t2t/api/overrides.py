"""Values of an experiment changed by name, as the command line's options do: {"optimizer.schedule.peak": 1e-3}."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from t2t import config, former_names
from t2t.api.option_names import nearest_options, option_names
from t2t.errors import UserError
from t2t.limits import OutOfLimits, option, shown
from t2t.train.experiment import Experiment

SHORT = {
    "batch_size": "data.batch_size",
    "checkpoint_every": "checkpoint.every",
    "eval_every": "evaluation.every",
}
"""Shorter names -> those of the values they stand for."""

_OPTION = re.compile(r"--([a-z0-9.-]+)")
_NOTHING = object()


@dataclass
class _Change:
    """What becomes of a value: another in its place, and changes of its parts."""

    given: str = ""
    value: Any = _NOTHING
    parts: dict[str, _Change] = field(default_factory=dict)


def overridden(experiment: Experiment, values: Mapping[str, Any], *, said: str = "t2t.train") -> Experiment:
    """Return the experiment with other values; all are put in together, so that relations between them are checked at the end.

    values: name -> value, "steps", "optimizer.schedule.peak", "optimizer", or one of `SHORT`. Lists stand for tuples.
    said:   what was called, the beginning of errors.

    Raises UserError, naming the nearest options, for a name that there is not; for a value of another type, or one out of its range.
    """
    tree = _Change()
    for name, value in values.items():
        place = tree
        for part in SHORT.get(name, name).split("."):
            place = place.parts.setdefault(part, _Change())
        if place.value is not _NOTHING:
            raise UserError(f"{said}: {place.given} and {name} are one option, and both are given.")
        place.given, place.value = name, _tuples(value)
    return _changed(experiment, tree, "", experiment, said)


def _changed(value: Any, change: _Change, path: str, whole: Experiment, said: str) -> Any:
    if change.value is not _NOTHING:
        value = change.value
    if not change.parts:
        return value
    if isinstance(value, Mapping):
        return {
            **value,
            **{key: _changed(value.get(key), one, f"{path}{key}.", whole, said) for key, one in change.parts.items()},
        }
    if isinstance(value, tuple) and all(part.isdigit() and int(part) < len(value) for part in change.parts):
        changed = {int(part): one for part, one in change.parts.items()}
        return tuple(
            _changed(each, changed[i], f"{path}{i}.", whole, said) if i in changed else each
            for i, each in enumerate(value)
        )
    names = [f.name for f in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
    hints = typing.get_type_hints(type(value)) if names else {}
    new = {}
    for name, one in change.parts.items():
        name = former_names.fields(type(value)).get(name, name)
        if name not in names:
            raise UserError(f"{said}: unknown option {path}{name}.{_nearest(f'{path}{name}', whole)}")
        new[name] = _changed(getattr(value, name), one, f"{path}{name}.", whole, said)
        if one.value is not _NOTHING and not config.fits(one.value, hints[name]):
            raise UserError(f"{said}: {one.given} {shown(one.value)} is not {config.spelled(hints[name])}.")
    try:
        return dataclasses.replace(value, **new)
    except OutOfLimits as error:
        raise error.at(f"{said}: {path}{error.field}") from None


def _nearest(name: str, whole: Experiment) -> str:
    known = {name for name, _ in option_names(whole)} | {option(short) for short in SHORT}
    found = nearest_options(option(name), known)
    return _OPTION.sub(lambda match: match[1].replace("-", "_"), found)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
