"""Configuration: convert frozen dataclasses to JSON and back, and list the differences between two configurations.

Each dataclass becomes a JSON object with its class name in "class", so that reading restores the same class (for example, of several optimizers).
`t2t/config_classes.py` lists the classes that a file may contain.
Values may be int, float, bool, str, None, tuples, dicts with string keys, and other such dataclasses. If the meaning of a class's fields has changed,
the class has a classmethod `upgraded`, which converts the stored fields to the present ones.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Iterator
from typing import Any

from t2t import config_classes, former_names
from t2t.errors import UserError, nearest
from t2t.json_files import parse_json
from t2t.limits import OutOfLimits

CLASS = "class"


def to_json(config: Any) -> Any:
    """Return the configuration as JSON values.

    Raises TypeError with the value's path if JSON cannot represent a value exactly.
    """
    return _encode(config, "")


def from_json(data: Any, *, where: str = "configuration") -> Any:
    """Return the configuration from the result of `to_json`.

    where: name of the source, for errors.
    Raises UserError for an unknown class or field, a missing field, or a value of another type.
    """
    return _decode(data, where, where)


def dumps(config: Any) -> str:
    """Return the configuration as indented JSON text."""
    return json.dumps(to_json(config), indent=2, ensure_ascii=False) + "\n"


def loads(text: str | bytes, *, where: str = "configuration") -> Any:
    """Return the configuration from the result of `dumps`. Raises UserError if the text is not valid JSON."""
    return from_json(parse_json(text, where=where), where=where)


def identifying(config: Any) -> Any:
    """Return the result of `to_json` without fields of `added_later` (`t2t.limits.Configuration`) that have their default value.

    Names and checks of saved data that are made from it stay valid when a class gets a new field.
    """
    return _encode(config, "", brief=True)


def fingerprint(config: Any) -> str:
    """Return a short hash of the result of `identifying`. Two configurations have the same hash if and only if they are equal."""
    canonical = json.dumps(identifying(config), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def differences(old: Any, new: Any) -> list[str]:
    """Return a line "path: old -> new" for each value that differs between two configurations."""
    return json_differences(to_json(old), to_json(new))


def json_differences(old: Any, new: Any) -> list[str]:
    """Return the result of `differences` for two configurations in JSON form."""
    before, after = dict(_leaves(old, "")), dict(_leaves(new, ""))
    lines = []
    for path in dict.fromkeys([*before, *after]):
        left, right = before.get(path, "(none)"), after.get(path, "(none)")
        if left != right:
            lines.append(f"{path}: {left} -> {right}")
    return lines


def _leaves(data: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _leaves(value, f"{path}.{key}" if path else key)
    else:
        yield path, json.dumps(data, ensure_ascii=False)


def _encode(value: Any, path: str, *, brief: bool = False) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        cls = type(value)
        later = getattr(cls, "added_later", ()) if brief else ()
        kept = [f.name for f in dataclasses.fields(value) if f.name not in later or getattr(value, f.name) != f.default]
        body = {name: _encode(getattr(value, name), f"{path}.{name}", brief=brief) for name in kept}
        return {CLASS: config_classes.tag(config_classes.register(cls)), **body}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return [_encode(item, f"{path}[{i}]", brief=brief) for i, item in enumerate(value)]
    if isinstance(value, dict) and all(isinstance(key, str) and key != CLASS for key in value):
        return {key: _encode(item, f"{path}.{key}", brief=brief) for key, item in value.items()}
    raise TypeError(f"{path.lstrip('.')}: {type(value).__name__} {value!r} cannot be part of a configuration")


def _decode(data: Any, path: str, where: str) -> Any:
    if isinstance(data, list):
        return tuple(_decode(item, f"{path}[{i}]", where) for i, item in enumerate(data))
    if not isinstance(data, dict):
        return data
    if CLASS not in data:
        return {key: _decode(item, f"{path}.{key}", where) for key, item in data.items()}
    cls = _find_class(data[CLASS], path)
    if hasattr(cls, "upgraded"):
        data = cls.upgraded(data)
    data = former_names.renamed(cls, data)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    values = {}
    for key, item in data.items():
        if key == CLASS:
            continue
        if key not in fields:
            raise UserError(f"{path}: {cls.__name__} has no field {key!r}.{nearest(key, fields)}")
        value = _decode(item, f"{path}.{key}", where)
        if not fits(value, hints[key]):
            raise UserError(f"{path}.{key}: {item!r} is not {describe_type(hints[key])}")
        values[key] = value
    missing = [
        name
        for name, f in fields.items()
        if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UserError(f"{path}: {cls.__name__} is missing {', '.join(missing)}")
    try:
        return cls(**values)
    except OutOfLimits as error:
        raise error.at(f"{path}.{error.field}") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _find_class(name: Any, path: str) -> type:
    cls = config_classes.find(name)
    if cls is None:
        raise UserError(
            f"{path}: no configuration class {name!r}; if it is your own, --import its module.{config_classes.nearest_classes(name)}"
        )
    return cls


def fits(value: Any, hint: Any) -> bool:
    """Return whether a value matches the type of a field."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, typing.TypeVar):
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, option) for option in arguments)
    if origin is typing.Literal:
        return value in arguments
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return all(fits(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(fits, value, arguments))
    if origin is dict or hint is dict:
        return isinstance(value, dict) and (not arguments or all(fits(item, arguments[1]) for item in value.values()))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is None or hint is type(None):
        return value is None
    return isinstance(value, hint) if isinstance(hint, type) else True


def describe_type(hint: Any) -> str:
    """Return the type of a field as text, for errors."""
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(hint)))
    return getattr(hint, "__name__", None) or str(hint).replace("typing.", "")
