"""Errors told in one line: a mistake of the user's (exit code 2), or what the machine did (1); nearest names."""

from __future__ import annotations

import contextlib
import difflib
import errno
from collections.abc import Iterable, Iterator


class UserError(Exception):
    """A mistake in what was asked for. Its text names the value, where it came from and the nearest valid one."""


class Failure(RuntimeError):
    """What ended a run without being anybody's mistake in what was asked for, told in one line. Exit code 1."""


_OF_THE_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.ESTALE, errno.ENOTCONN}


def in_one_line(error: BaseException) -> str | None:
    """Return what to tell of a failure: a `Failure`'s text, or that of a disk that is full, read-only or gone; None for what is a bug."""
    if isinstance(error, Failure):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        return f"{f'{error.filename}: ' if error.filename else ''}{error.strerror}"
    return None


@contextlib.contextmanager
def writing(path: object) -> Iterator[None]:
    """Give an OSError raised inside the path that was written to: the system's own names none where a write fails."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


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
