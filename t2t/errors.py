"""Errors told in one line: a mistake of the user's (exit code 2), or what the machine did (1); nearest names."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import re
from collections.abc import Collection, Iterable, Iterator


class UserError(Exception):
    """A mistake in what was asked for. Its text names the value, where it came from and the nearest valid one."""


class Failure(RuntimeError):
    """What ended a run without being anybody's mistake in what was asked for, told in one line. Exit code 1."""


class OutOfMemory(Failure):
    """What is asked for wants more memory than there is."""


_AWAY = {
    *(errno.EIO, errno.EACCES, errno.EPERM, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN),
    *(errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOLCK, errno.EBUSY, errno.EAGAIN, errno.ENODEV, errno.ENXIO),
}
_OF_THE_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, *_AWAY}


_NO_MEMORY = (
    "RESOURCE_EXHAUSTED",
    "Out of memory",
    "out of memory",
    "bad_alloc",
    "can't start new thread",
    "failed to map segment",
    "cannot allocate memory",
)
_FULL = (errno.ENOSPC, errno.EDQUOT)


def in_one_line(error: BaseException) -> str | None:
    """Return what to tell of a failure: a `Failure`'s text, or that of a disk that is full, read-only or gone, or of memory that is used up; None for what is a bug."""
    if isinstance(error, Failure):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        return f"{f'{error.filename}: ' if error.filename else ''}{error.strerror}"
    if (full := _told(error, _FULL)) is not None:
        return f"{full} ({' '.join(str(error).split())[:300]})"
    if is_out_of_memory(error):
        asked = re.search(r"(?:allocat\w*|allocate) (\d+) bytes", str(error))
        size = f" ({int(asked[1]) / 1e9:,.1f} GB more were wanted)" if asked else ""
        return f"the memory is used up{size}"
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was used up: of Python, of XLA on any device, or of TensorFlow."""
    if isinstance(error, MemoryError | OutOfMemory):
        return True
    told = type(error).__name__ in ("JaxRuntimeError", "ResourceExhaustedError", "RuntimeError", "ImportError")
    return told and any(words in str(error) for words in _NO_MEMORY)


def cannot_be_read(error: BaseException, *more: str) -> str | None:
    """Return why a file cannot be read for now (permissions, a disk or a file system that is away), None where it can: then what it holds is wrong.

    error: with what it was raised from. more: texts that were told beside it.
    """
    return _told(error, _AWAY, *more)


def of_the_machine(error: BaseException) -> str | None:
    """Return why a file cannot be written where it is the machine: a disk that is full, read-only or away. error: with what it was raised from."""
    return _told(error, _OF_THE_MACHINE)


def _told(error: BaseException, numbers: Collection[int], *more: str) -> str | None:
    """Return the system's words for the first of the error numbers that an error, or what it was raised from, tells. A library that wraps the system's error keeps its words."""
    texts = list(more)
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno is not None and seen.errno in numbers:
            return os.strerror(seen.errno)
        texts.append(str(seen))
        seen = seen.__cause__ or seen.__context__
    words = [os.strerror(number) for number in sorted(numbers)]
    return next((word for word in words if any(word in text for text in texts)), None)


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
