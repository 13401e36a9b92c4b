"""Filter the standard error of compiled code. Python settings cannot change this output, so it is captured at the file descriptor."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def without(noise: re.Pattern[str]) -> Iterator[list[str]]:
    """Context that captures standard error. At its end, print only the lines that do not match `noise`.

    Yields a list that contains all lines after the end of the context.
    """
    lines: list[str] = []
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield lines
        finally:
            sys.stderr.flush()
            os.dup2(original, 2)
            os.close(original)
            captured.seek(0)
            for line in captured.read().decode(errors="replace").splitlines(keepends=True):
                lines.append(line.rstrip("\n"))
                if not noise.match(line):
                    sys.stderr.write(line)
