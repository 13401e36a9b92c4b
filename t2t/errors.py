"""Errors that are the user's to mend: one line, no traceback, exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in what was asked for. Its text names the value, where it came from and the nearest valid one."""


def nearest(value: str, choices: Iterable[str], *, at_most: int = 3) -> str:
    """Return " Nearest: a, b." for the choices most like `value`, or the first few choices where none is alike.

    Made to be appended to a sentence: `UserError(f"unknown task {name!r} (--data.task).{nearest(name, tasks)}")`.
    """
    names = sorted(set(choices))
    if not names:
        return " There is none to choose from."
    close = difflib.get_close_matches(value, names, n=at_most, cutoff=0.4)
    if not close:
        close = [name for name in names if value and value.lower() in name.lower()][:at_most]
    if close:
        return f" Nearest: {', '.join(close)}."
    more = f", ... ({len(names)} in all)" if len(names) > 5 else ""
    return f" There are: {', '.join(names[:5])}{more}."
