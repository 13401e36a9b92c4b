"""Strategies that damage files, and a check of the errors of reading them."""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from t2t.errors import Failure, UserError


def told(read: Callable[[], Any]) -> str:
    """Return the one-line error message of a read, or "" if it succeeds. Other exceptions propagate."""
    try:
        read()
    except (UserError, Failure) as error:
        line = str(error)
    else:
        return ""
    assert line.strip()
    assert "\n" not in line, line
    return line


ODD = (
    None,
    True,
    -1,
    0,
    3,
    10**30,
    2**63,
    1.5,
    -0.0,
    float("nan"),
    float("inf"),
    "",
    "x",
    "../x",
    "\x1b[2J",
    [],
    {},
    [1],
    {"a": 1},
)
"""Unexpected values."""


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all parts of a JSON value, starting with the whole value."""
    found = [path]
    if isinstance(value, dict | list):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            found += places(child, (*path, key))
    return found


def replaced(value: Any, path: tuple[Any, ...], part: Any) -> Any:
    """Return a JSON value with one part replaced, or removed if `part` is `LEFT_OUT`."""
    if not path:
        return None if part is LEFT_OUT else part
    key, *rest = path
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    if part is LEFT_OUT and not rest:
        del copy[key]
    else:
        copy[key] = replaced(value[key], tuple(rest), part)
    return copy


LEFT_OUT = object()


@st.composite
def changed_json(draw: st.DrawFn, value: Any) -> bytes:
    """Draw JSON text with one to three parts of the value replaced by unexpected values or removed."""
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(value)))
        value = replaced(value, path, draw(st.sampled_from((*ODD, LEFT_OUT))))
    return json.dumps(value).encode()


NOTHING = (b"", b"\xff\xfe{}", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}", b"null", b"\0" * 64)


class Content(bytes):
    """Bytes with a short repr, because failing tests print them."""

    def __repr__(self) -> str:
        shown = bytes(self[:200])
        return f"{shown!r}{'' if len(self) <= 200 else f' and {len(self) - 200} bytes more'}"


@st.composite
def changed_bytes(draw: st.DrawFn, content: bytes, *, within: int | None = None) -> bytes:
    """Draw the content of a file with changed, removed or inserted bytes within the first `within` bytes, or sometimes other content."""
    if draw(st.integers(0, 9)) == 0:
        return Content(draw(st.sampled_from(NOTHING)))
    made = bytearray(content)
    end = len(made) if within is None else within
    for _ in range(draw(st.integers(0, 3))):
        made[draw(st.integers(0, end - 1))] = draw(st.integers(0, 255))
    at = draw(st.integers(0, end))
    match draw(st.sampled_from(("change", "cut", "insert"))):
        case "cut":
            return Content(made[:at])
        case "insert":
            return Content(made[:at] + draw(st.binary(max_size=8)) + made[at:])
    return Content(made)
