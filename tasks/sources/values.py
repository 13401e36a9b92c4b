"""Field values of a record: supported types, type inference and checks."""

from __future__ import annotations

import collections
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from t2t.errors import nearest

Fields = Mapping[str, type]

LISTS: Mapping[type, type] = {list[str]: str, list[int]: int, list[float]: float, list[bool]: bool}
"""List types of fields -> type of their items."""

KIND_NAMES: Mapping[type, str] = {
    str: "text",
    int: "an integer",
    float: "a number",
    bool: "a boolean",
    list[str]: "a list of texts",
    list[int]: "a list of integers",
    list[float]: "a list of numbers",
    list[bool]: "a list of booleans",
}
ALLOWED_TYPES = "str, int, float, bool or a list of one of these (list[str])"
"""Supported field types, for messages."""


class BadRecord(Exception):
    """Raised for a record that cannot be read; the text gives the reason."""


class TypeInference:
    """Infers the type of each field: the type that most records have, without nulls.

    An object inside a record contributes its own fields, with dotted names ("answers.text").
    """

    def __init__(self) -> None:
        self._seen: dict[str, collections.Counter[type | None]] = {}
        self._records = 0

    def add(self, record: Mapping[str, Any]) -> None:
        """Count the types in a record."""
        self._records += 1
        for name, value in _flat(record):
            seen = self._seen.setdefault(name, collections.Counter())
            if value is not None:
                seen[type_of(value)] += 1

    def has_no_value(self, name: str) -> bool:
        """Return whether no record has a value for that field."""
        return not self._seen.get(name)

    def fields(self) -> dict[str, type | None]:
        """Return the type of each field, or None if the type is not supported or no record has a value."""
        return {name: _most_common_type(seen) if seen else None for name, seen in self._seen.items()}

    def common_fields(self) -> list[str]:
        """Return the fields that have a value in at least half of the records."""
        return [name for name, seen in self._seen.items() if 2 * seen.total() >= self._records]


def _flat(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in record.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def type_of(value: Any) -> type | None:
    """Return the type of a JSON value: None if it is not supported, `list` for an empty list."""
    if not isinstance(value, list):
        return type(value) if type(value) in KIND_NAMES else None
    if not value:
        return list
    kinds: set[type] = {type(item) for item in value}
    if kinds == {int, float}:
        kinds = {float}
    return next((listed for listed, item in LISTS.items() if kinds == {item}), None)


def _most_common_type(seen: collections.Counter[type | None]) -> type | None:
    counts = collections.Counter(seen)
    for integer, floating in ((int, float), (list[int], list[float])):
        if counts[integer] and counts[floating]:
            counts[floating] += counts.pop(integer)
    # An empty list counts as the most frequent list type.
    if empty := counts.pop(list, 0):
        counts[max(LISTS, key=lambda kind: counts[kind])] += empty
    return counts.most_common(1)[0][0]


def lookup(found: Mapping[str, Any], name: str) -> Any:
    """Return a field; a dotted name addresses a field inside an object. Raise BadRecord if it is missing."""
    if name in found:
        return found[name]
    value: Any = found
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise BadRecord(
                f"field {name!r} is missing.{nearest(name, [key for key, _ in _flat(found)])}".removesuffix(".")
            )
        value = value[part]
    return value


def check_fields(found: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    """Return the requested fields. Raise BadRecord if one is missing or has another type."""
    return {name: _check_value(f"field {name!r}", lookup(found, name), kind) for name, kind in fields.items()}


def _check_value(where: str, value: Any, kind: type) -> Any:
    if kind in LISTS:
        if not isinstance(value, list):
            raise BadRecord(f"{where} is {display(value)}, expected {KIND_NAMES[kind]}")
        return [_check_value(f"{where}, item {i}", item, LISTS[kind]) for i, item in enumerate(value, 1)]
    if kind is float and type(value) is int:
        try:
            exact = float(value)
        except OverflowError:
            exact = math.inf
        if exact != value:
            raise BadRecord(f"{where} is {display(value)}: no 64-bit float equals this integer")
        value = exact
    actual: type = type(value)
    if actual is not kind:
        raise BadRecord(f"{where} is {display(value)}, expected {KIND_NAMES[kind]}")
    if kind is int and not -(2**63) <= value < 2**63:
        raise BadRecord(f"{where} is {display(value)}, which does not fit in 64 bits")
    if kind is float and not math.isfinite(value):
        raise BadRecord(f"{where} is {value}, expected a finite number")
    if kind is str:
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise BadRecord(f"{where} has a lone surrogate, which is not a valid character") from None
    return value


def display(value: Any) -> str:
    """Return a value as short text for messages."""
    if value is None:
        return "null"
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    try:
        text = json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else str(value)
    except ValueError:  # an integer with thousands of digits
        return "a number with thousands of digits"
    return text if len(text) <= 40 else text[:37] + "..."
