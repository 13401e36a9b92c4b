"""Read JSON files. Invalid content raises a one-line error that names the file.

Use this module to read any stored JSON file. `json.loads` alone causes tracebacks for four kinds of damage: text that is not UTF-8,
nesting deeper than Python's stack, integers with thousands of digits, and values of an unexpected type.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from t2t.errors import UserError

DEPTH = 200
"""Maximum nesting of lists and objects. Valid files are much less deep."""
_TOO_DEEP = "invalid JSON (nested too deep)"
_SHAPES = {
    dict: "an object",
    list: "a list",
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
}


def read_json(path: Path, *, shape: type | None = dict) -> Any:
    """Return the JSON value in a file.

    shape: required type of the outermost value; None accepts any type.
    Raises UserError with the file's name if the content is not such a value, and OSError if the file cannot be read.
    """
    return parse_json(path.read_bytes(), where=str(path), shape=shape)


def parse_json(text: str | bytes, *, where: str, shape: type | None = None) -> Any:
    """Return the value of a JSON text.

    where: the file, or the file and line, for errors.
    shape: required type of the outermost value; None accepts any type.
    Raises UserError if the text is not UTF-8, not JSON or nested too deep, if it repeats a key or has a number that is too long, or if the value has
    another type.
    """
    try:
        value = json_value(text)
    except NotJson as error:
        raise UserError(f"{where}{'' if error.line is None else f':{error.line}'}: {error}") from None
    return value if shape is None else expect(value, shape, where)


def expect(value: Any, shape: type, where: str) -> Any:
    """Return a JSON value after a check of its type. Raises UserError for another type. An integer is a valid number; a boolean is not."""
    fits = isinstance(value, int | float if shape is float else shape)
    if fits and shape is float and not isinstance(value, float):
        fits = abs(value) < 2**1023  # fits in a float
    if not fits or (isinstance(value, bool) and shape is not bool):
        shown = json.dumps(value, ensure_ascii=False)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        raise UserError(f"{where}: {shown} is not {_SHAPES[shape]}")
    return value


class NotJson(ValueError):
    """Invalid JSON, with the reason.

    line: line of the error, from 1; None if it does not belong to one line.
    """

    def __init__(self, reason: str, line: int | None = None):
        super().__init__(reason)
        self.line = line


def json_value(text: str | bytes) -> Any:
    """Return the value of a JSON text, for readers that skip bad lines. Raises NotJson in the cases in which `parse_json` raises UserError."""
    try:
        decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        value = json.loads(decoded, object_pairs_hook=_without_duplicates)
    except UnicodeDecodeError as error:
        raise NotJson(f"not UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise NotJson(f"not JSON ({error.msg} at column {error.colno})", error.lineno) from None
    except RecursionError:
        raise NotJson(_TOO_DEEP) from None
    except NotJson:
        raise
    except ValueError:  # int() limits the number of digits
        raise NotJson("invalid JSON (a number has too many digits)") from None
    if _depth_exceeds(value, DEPTH):
        raise NotJson(_TOO_DEEP)
    return value


def _depth_exceeds(value: Any, limit: int) -> bool:
    """Return whether lists and objects are nested deeper than `limit`. Readers of the value recurse into it."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(limit):
        if not level:
            return False
        children = (child for node in level for child in (node.values() if isinstance(node, dict) else node))
        level = [child for child in children if isinstance(child, dict | list)]
    return bool(level)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in value if names.count(name) > 1)
        raise NotJson(f"invalid JSON (the key {repeated!r} appears twice)")
    return value
