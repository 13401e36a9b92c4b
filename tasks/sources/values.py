"""Values of a record's fields: which types there are, how they are told from records, and what is refused."""

from __future__ import annotations

import collections
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from t2t.errors import nearest

Fields = Mapping[str, type]

LISTS: Mapping[type, type] = {list[str]: str, list[int]: int, list[float]: float, list[bool]: bool}
"""Types of fields that are lists -> the type of their items."""

KIND_NAMES: Mapping[type, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list[str]: "a list of texts",
    list[int]: "a list of whole numbers",
    list[float]: "a list of numbers",
    list[bool]: "a list of true and false",
}
ALLOWED = "str, int, float, bool or a list of one of these, as list[str]"
"""The types of fields, for messages."""


class Bad(Exception):
    """A record that cannot be read, and why."""


class Inference:
    """Tells the types of fields from records: of each field the type that most records have, nulls not counted.

    An object within a record gives its own fields, with dotted names ("answers.text").
    """

    def __init__(self) -> None:
        self._seen: dict[str, collections.Counter[type | None]] = {}
        self._records = 0

    def add(self, record: Mapping[str, Any]) -> None:
        """Count a record's types."""
        self._records += 1
        for name, value in _flat(record):
            seen = self._seen.setdefault(name, collections.Counter())
            if value is not None:
                seen[kind_of(value)] += 1

    def lacks(self, name: str) -> bool:
        """Whether no record had a value of that field."""
        return not self._seen.get(name)

    def fields(self) -> dict[str, type | None]:
        """Return the type of each field, None where it is one that cannot be read, or no record had a value."""
        return {name: _most(seen) if seen else None for name, seen in self._seen.items()}

    def usual(self) -> list[str]:
        """Return the fields that at least half of the records have a value of."""
        return [name for name, seen in self._seen.items() if 2 * seen.total() >= self._records]


def _flat(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in record.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def kind_of(value: Any) -> type | None:
    """Return the type of a JSON value, None where it is one that cannot be read, and `list` for an empty one."""
    if not isinstance(value, list):
        return type(value) if type(value) in KIND_NAMES else None
    if not value:
        return list
    kinds: set[type] = {type(item) for item in value}
    if kinds == {int, float}:
        kinds = {float}
    return next((listed for listed, item in LISTS.items() if kinds == {item}), None)


def _most(seen: collections.Counter[type | None]) -> type | None:
    counts = collections.Counter(seen)
    for whole, broken in ((int, float), (list[int], list[float])):
        if counts[whole] and counts[broken]:
            counts[broken] += counts.pop(whole)
    # An empty list is one of whatever the others have.
    if empty := counts.pop(list, 0):
        counts[max(LISTS, key=lambda kind: counts[kind])] += empty
    return counts.most_common(1)[0][0]


def present(found: Mapping[str, Any], name: str) -> Any:
    """Return a field; a dotted name is looked up within objects. Raises Bad where it is missing."""
    if name in found:
        return found[name]
    value: Any = found
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise Bad(f"field {name!r} is missing.{nearest(name, [key for key, _ in _flat(found)])}".removesuffix("."))
        value = value[part]
    return value


def checked(found: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    """Return the fields asked for. Raises Bad where one is missing or of another type."""
    return {name: _checked(f"field {name!r}", present(found, name), kind) for name, kind in fields.items()}


def _checked(where: str, value: Any, kind: type) -> Any:
    if kind in LISTS:
        if not isinstance(value, list):
            raise Bad(f"{where} is {said(value)}, {KIND_NAMES[kind]} is needed")
        return [_checked(f"{where}, item {i}", item, LISTS[kind]) for i, item in enumerate(value, 1)]
    if kind is float and type(value) is int:
        try:
            exact = float(value)
        except OverflowError:
            exact = math.inf
        if exact != value:
            raise Bad(f"{where} is {said(value)}, a whole number that no 64-bit float is equal to")
        value = exact
    actual: type = type(value)
    if actual is not kind:
        raise Bad(f"{where} is {said(value)}, {KIND_NAMES[kind]} is needed")
    if kind is int and not -(2**63) <= value < 2**63:
        raise Bad(f"{where} is {said(value)}, which does not fit 64 bits")
    if kind is float and not math.isfinite(value):
        raise Bad(f"{where} is {value}, a finite number is needed")
    if kind is str:
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise Bad(f"{where} has a lone surrogate, which is no character") from None
    return value


def said(value: Any) -> str:
    """Return a value in words, for messages."""
    if value is None:
        return "null"
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    try:
        text = json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else str(value)
    except ValueError:  # an integer of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 40 else text[:37] + "..."
