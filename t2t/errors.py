"""One-line errors: user mistakes (exit code 2) and machine failures (exit code 1). Also nearest names for messages."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import re
from collections.abc import Collection, Iterable, Iterator


class UserError(Exception):
    """A mistake of the user. The message names the value, its source and the nearest valid value. Exit code 2."""


class Failure(RuntimeError):
    """A failure that is not a mistake of the user, with a one-line message. Exit code 1."""


class OutOfMemory(Failure):
    """The task needs more memory than available."""


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
    """Return a one-line message for a failure, or None for a bug.

    Failures are a `Failure`, a disk that is full, read-only or unavailable, and out of memory.
    """
    if isinstance(error, Failure):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        return f"{f'{error.filename}: ' if error.filename else ''}{error.strerror}"
    if (full := _system_message(error, _FULL)) is not None:
        return f"{full} ({' '.join(str(error).split())[:300]})"
    if is_out_of_memory(error):
        request = re.search(r"(?:allocat\w*|allocate) (\d+) bytes", str(error))
        size = f" (while allocating {int(request[1]) / 1e9:,.1f} GB)" if request else ""
        return f"out of memory{size}"
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means out of memory: in Python, in XLA on any device, or in TensorFlow."""
    if isinstance(error, MemoryError | OutOfMemory):
        return True
    possible = type(error).__name__ in ("JaxRuntimeError", "ResourceExhaustedError", "RuntimeError", "ImportError")
    return possible and any(phrase in str(error) for phrase in _NO_MEMORY)


def cannot_be_read(error: BaseException, *more: str) -> str | None:
    """Return why a file cannot be read: permissions, or a disk or file system that is unavailable. None if its content is wrong instead.

    error: the error, searched with its causes.
    more:  other texts to search, such as log lines.
    """
    return _system_message(error, _AWAY, *more)


def of_the_machine(error: BaseException) -> str | None:
    """Return why the machine cannot write a file: a disk that is full, read-only or unavailable. None for other errors. Searches the error's causes too."""
    return _system_message(error, _OF_THE_MACHINE)


def _system_message(error: BaseException, numbers: Collection[int], *more: str) -> str | None:
    """Return the system's message for an error number in `numbers` that an error or one of its causes has.

    Libraries that wrap a system error keep its message, so this function also searches for the messages in the texts.
    """
    texts = list(more)
    chain: list[BaseException] = []
    seen: BaseException | None = error
    while seen is not None and not any(seen is one for one in chain):  # `raise error from error` makes a circle
        if isinstance(seen, OSError) and seen.errno is not None and seen.errno in numbers:
            return os.strerror(seen.errno)
        chain.append(seen)
        texts.append(str(seen))
        seen = seen.__cause__ or seen.__context__
    messages = [os.strerror(number) for number in sorted(numbers)]
    return next((message for message in messages if any(message in text for text in texts)), None)


@contextlib.contextmanager
def writing(path: object) -> Iterator[None]:
    """Context that adds the path to an OSError. The system's own error has no path if a write fails."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def nearest(value: str, choices: Iterable[str], *, at_most: int = 3) -> str:
    """Return " Nearest: a, b." with the choices most similar to `value`, or " There are: ..." with the first choices if none is similar.

    Append the result to a sentence: `UserError(f"unknown task {name!r} (--data.task).{nearest(name, tasks)}")`.
    """
    names = sorted(set(choices))
    if not names:
        return " There are no choices."
    close = difflib.get_close_matches(value, names, n=at_most, cutoff=0.4)
    if not close:
        close = [name for name in names if value and value.lower() in name.lower()][:at_most]
    if close:
        return f" Nearest: {', '.join(close)}."
    more = f", ... ({len(names)} in all)" if len(names) > 5 else ""
    return f" There are: {', '.join(names[:5])}{more}."
