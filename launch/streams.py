"""Standard input, output and error as a program needs them, whatever it was started with."""

from __future__ import annotations

import io
import os
import sys

from t2t.errors import Failure, in_one_line, writing
from t2t.launch.codes import DONE, FAILED


class _Messages(io.FileIO):
    """Standard error. What cannot be written there is dropped: a reader that has gone, or a full disk, must not end a training."""

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError:
            return len(memoryview(data))  # type: ignore[arg-type]


class _Results(io.FileIO):
    """Standard output. What cannot be written there is an error that names it."""

    def write(self, data: object) -> int:
        with writing("standard output"):
            return super().write(data)  # type: ignore[arg-type]


class _Closed(io.FileIO):
    """Stands for a standard output that is closed."""

    def write(self, data: object) -> int:
        raise Failure("standard output is closed: the results have nowhere to go")


def prepare() -> None:
    """Open those that are closed, and let no character and no lost message end the program.

    A closed one's number would go to the next file that is opened, and messages of compiled code into it. What is written to a closed standard
    output raises Failure, so that results are not lost without a word.
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
            errors="replace",  # an encoding without a character of the text
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
    """Write out what is left of standard output; return the program's exit code."""
    try:
        sys.stdout.flush()
    except OSError as error:
        discard_output()
        if isinstance(error, BrokenPipeError):  # whoever read it has seen enough
            return code
        if code == DONE:  # else it is told already
            print(f"error: {in_one_line(error)}", file=sys.stderr, flush=True)
            return FAILED
    return code


def discard_output() -> None:
    """Let nothing more go to standard output: what is left of it would fail again at the program's end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
