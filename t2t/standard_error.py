"""Standard error of compiled code, whose lines no setting of Python reaches: caught at the file descriptor, and shown without its noise."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def without(noise: re.Pattern[str]) -> Iterator[list[str]]:
    """Show of what is written to standard error inside only the lines that do not match `noise`, at the end.

    Yields a list, which has all of the lines once the context is left.
    """
    lines: list[str] = []
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield lines
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            for line in caught.read().decode(errors="replace").splitlines(keepends=True):
                lines.append(line.rstrip("\n"))
                if not noise.match(line):
                    sys.stderr.write(line)
