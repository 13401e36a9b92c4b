"""Set up standard input, output and error so that closed or failing streams do not break the program."""

from __future__ import annotations

import io
import os
import sys

from t2t.errors import Failure, in_one_line, writing
from t2t.launch.codes import DONE, FAILED


class _Messages(io.FileIO):
    """Standard error. Failed writes are ignored: a closed pipe or a full disk must not end a training."""

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError:
            return len(memoryview(data))  # type: ignore[arg-type]


class _Results(io.FileIO):
    """Standard output. A failed write raises an error that names standard output."""

    def write(self, data: object) -> int:
        with writing("standard output"):
            return super().write(data)  # type: ignore[arg-type]


class _Closed(io.FileIO):
    """Replacement for a closed standard output."""

    def write(self, data: object) -> int:
        raise Failure("standard output is closed: the results cannot be written")


def prepare() -> None:
    """Open the standard streams that are closed, and prevent encoding errors and failed messages from ending the program.

    The next opened file would get the descriptor of a closed stream, and messages of compiled code would go into that file. Writing to a closed
    standard output raises Failure, so that results are not lost silently.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_WRONLY if number == 2 else os.O_RDONLY)
    if sys.stdout is None:
        sys.stdout = io.TextIOWrapper(_Closed(1, "w", closefd=False), encoding="utf-8", write_through=True)
    else:
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(_Results(1, "w", closefd=False)),
            encoding=sys.stdout.encoding,
            errors="replace",  # the encoding may not have a character of the text
            line_buffering=sys.stdout.isatty(),
        )
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    sys.stderr = io.TextIOWrapper(
        _Messages(2, "w", closefd=False),  # type: ignore[type-var]
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=True,
        write_through=True,
    )


def finish(code: int) -> int:
    """Flush standard output and return the program's exit code."""
    try:
        sys.stdout.flush()
    except OSError as error:
        discard_output()
        if isinstance(error, BrokenPipeError):  # the reader has closed the pipe
            return code
        if code == DONE:  # otherwise an error is already printed
            print(f"error: {in_one_line(error)}", file=sys.stderr, flush=True)
            return FAILED
    return code


def discard_output() -> None:
    """Redirect standard output to the null device, because flushing the rest at exit would fail again."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
