"""Change values of an experiment by name, like the options of the command line: {"optimizer.schedule.peak": 1e-3}."""

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
"""Short name -> full name of the value."""

_OPTION = re.compile(r"--([a-z0-9.-]+)")
_NOTHING = object()


@dataclass
class _Change:
    """Change of a value: a new value, and changes of its parts. `name`: the option's name as the user wrote it."""

    name: str = ""
    value: Any = _NOTHING
    parts: dict[str, _Change] = field(default_factory=dict)


def overridden(experiment: Experiment, values: Mapping[str, Any], *, caller: str = "t2t.train") -> Experiment:
    """Return the experiment with changed values. All values are set at once, so that checks see the final combination.

    values: name -> value. A name is "steps", "optimizer.schedule.peak", "optimizer" or one of `SHORT`. Lists become tuples.
    caller: the called function, with which errors begin.

    Raises UserError for an unknown name, with the nearest options, and for a value of another type or out of range.
    """
    tree = _Change()
    for name, value in values.items():
        place = tree
        for part in SHORT.get(name, name).split("."):
            place = place.parts.setdefault(part, _Change())
        if place.value is not _NOTHING:
            raise UserError(f"{caller}: {place.name} and {name} are the same option. Give only one.")
        place.name, place.value = name, _tuples(value)
    return _changed(experiment, tree, "", experiment, caller)


def _changed(value: Any, change: _Change, path: str, whole: Experiment, caller: str) -> Any:
    if change.value is not _NOTHING:
        value = change.value
    if not change.parts:
        return value
    if isinstance(value, Mapping):
        return {
            **value,
            **{key: _changed(value.get(key), one, f"{path}{key}.", whole, caller) for key, one in change.parts.items()},
        }
    if isinstance(value, tuple) and all(part.isdigit() and int(part) < len(value) for part in change.parts):
        changed = {int(part): one for part, one in change.parts.items()}
        return tuple(
            _changed(each, changed[i], f"{path}{i}.", whole, caller) if i in changed else each
            for i, each in enumerate(value)
        )
    names = [f.name for f in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
    hints = typing.get_type_hints(type(value)) if names else {}
    new = {}
    for name, one in change.parts.items():
        name = former_names.fields(type(value)).get(name, name)
        if name not in names:
            raise UserError(f"{caller}: unknown option {path}{name}.{_nearest(f'{path}{name}', whole)}")
        new[name] = _changed(getattr(value, name), one, f"{path}{name}.", whole, caller)
        if one.value is not _NOTHING and not config.fits(one.value, hints[name]):
            raise UserError(f"{caller}: {one.name} {shown(one.value)} is not {config.describe_type(hints[name])}.")
    try:
        return dataclasses.replace(value, **new)
    except OutOfLimits as error:
        raise error.at(f"{caller}: {path}{error.field}") from None


def _nearest(name: str, whole: Experiment) -> str:
    known = {name for name, _ in option_names(whole)} | {option(short) for short in SHORT}
    found = nearest_options(option(name), known)
    return _OPTION.sub(lambda match: match[1].replace("-", "_"), found)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
