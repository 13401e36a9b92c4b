"""Reads JSON that comes from a file: anything that cannot be read is one line that names the file.

Every reader of a stored JSON file goes through this module, because `json.loads` alone lets four kinds of damage through as tracebacks:
text that is not UTF-8, nesting deeper than Python's stack, integers of thousands of digits, and a value of another shape than the caller expects.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from t2t.errors import UserError

DEPTH = 200
"""Lists and objects within one another that are read; nothing of ours and no configuration of a model comes near."""
_TOO_DEEP = "not JSON that can be read (nested too deep)"
_SHAPES = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "an integer",
    float: "a number",
    bool: "true or false",
}


def read_json(path: Path, *, shape: type | None = dict) -> Any:
    """Return the JSON value that a file holds.

    shape: the type that the outermost value must have; None takes any.
    Raises UserError, naming the file, where it holds no such value; OSError where it cannot be read.
    """
    return parse_json(path.read_bytes(), where=str(path), shape=shape)


def parse_json(text: str | bytes, *, where: str, shape: type | None = None) -> Any:
    """Return the value of a JSON text.

    where: the file, or the file and line, to name in errors.
    shape: the type that the outermost value must have; None takes any.
    Raises UserError where the text is not UTF-8, not JSON, nested too deep, repeats a key, has a number that is too long, or has another shape.
    """
    try:
        value = json_value(text)
    except NotJson as error:
        raise UserError(f"{where}{'' if error.line is None else f':{error.line}'}: {error}") from None
    return value if shape is None else expect(value, shape, where)


def expect(value: Any, shape: type, where: str) -> Any:
    """Return a JSON value that must have a type; UserError, naming the place, where it has another. An integer is a number, a boolean is neither."""
    fits = isinstance(value, int | float if shape is float else shape)
    if fits and shape is float and not isinstance(value, float):
        fits = abs(value) < 2**1023  # what fits a float
    if not fits or (isinstance(value, bool) and shape is not bool):
        shown = json.dumps(value, ensure_ascii=False)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        raise UserError(f"{where}: {shown} is not {_SHAPES[shape]}")
    return value


class NotJson(ValueError):
    """A text that is not JSON that can be read, and why.

    line: of the text, from 1; None where the fault is not of one line.
    """

    def __init__(self, reason: str, line: int | None = None):
        super().__init__(reason)
        self.line = line


def json_value(text: str | bytes) -> Any:
    """Return the value of a JSON text, for readers that go on after a bad one. Raises NotJson where `parse_json` raises UserError."""
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
    except ValueError:  # of int(), which takes no longer ones
        raise NotJson("not JSON that can be read (a number has too many digits)") from None
    if _depth_exceeds(value, DEPTH):
        raise NotJson(_TOO_DEEP)
    return value


def _depth_exceeds(value: Any, limit: int) -> bool:
    """Whether lists and objects lie within one another deeper than `limit`: those who walk through them recurse."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(limit):
        if not level:
            return False
        children = (child for node in level for child in (node.values() if isinstance(node, dict) else node))
        level = [child for child in children if isinstance(child, dict | list)]
    return bool(level)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in made if names.count(name) > 1)
        raise NotJson(f"not JSON that can be read (the key {repeated!r} appears twice)")
    return made
