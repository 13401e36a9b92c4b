"""Where `t2t infer` writes its answers: a file, which is there when it is whole, or what stands in a file's place."""

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
def opened(path: str) -> Iterator[TextIO]:
    """Open a path for text. A file appears under its name at the end, a link stays and its target is written; devices and pipes are written to.

    Where a UserError leaves, a file is as it was before. Raises OSError with the path.
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
    """Return the number of one of this process's open files, which another opening would begin to write anew."""
    found = _DESCRIPTOR.fullmatch(path)
    if found is None:
        return None
    return {"stdout": 1, "stderr": 2}[found[1]] if found[1] else int(found[2])


def _in_place(target: Path) -> bool:
    """Whether it is a device, a pipe or a socket: nothing that another file may take the place of."""
    return target.exists() and not target.is_file()
