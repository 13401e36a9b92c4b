"""Output file of `t2t infer`. A regular file appears only when it is complete; devices and pipes are written to directly."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from t2t.errors import UserError, writing

_DESCRIPTOR = re.compile(r"/dev/(stdout|stderr)|/(?:dev|proc/self)/fd/(\d+)")


@contextlib.contextmanager
def open_output(path: str) -> Iterator[TextIO]:
    """Open a path for writing text.

    A regular file is written under another name and renamed at the end; if a UserError is raised inside, the old file stays unchanged.
    The target of a link is replaced, the link stays. Devices and pipes are written to directly. Raises OSError with the path.
    """
    number, target = _descriptor(path), Path(os.path.realpath(path))
    if number is not None:
        sys.stdout.flush()
        with writing(path), os.fdopen(os.dup(number), "w", encoding="utf-8") as file:
            yield file
        return
    if _in_place(target):
        with writing(path), target.open("w", encoding="utf-8") as file:
            yield file
        return
    partial = target.with_name(f"{target.name}.partial")
    try:
        with writing(path), partial.open("w", encoding="utf-8") as file:
            yield file
    except UserError:
        partial.unlink()
        raise
    partial.replace(target)


def _descriptor(path: str) -> int | None:
    """Return the descriptor if the path names an open file of this process, else None. Opening such a path again would overwrite from the start."""
    found = _DESCRIPTOR.fullmatch(path)
    if found is None:
        return None
    return {"stdout": 1, "stderr": 2}[found[1]] if found[1] else int(found[2])


def _in_place(target: Path) -> bool:
    """Return whether the target is a device, a pipe or a socket, which a rename must not replace."""
    return target.exists() and not target.is_file()
