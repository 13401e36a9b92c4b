"""Which code of their own users have trained with on this machine: the same code, kept by a run, needs no second question.

A file of this user's (`~/.local/state/t2t/known-code`, below XDG_STATE_HOME where that is set) holds a line for each set of files: the SHA-256 over
what is imported and over each file's content. A run of a stranger's, or one whose code was changed since, has another one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path


def remember(imports: Sequence[str], checksums: Mapping[str, str]) -> None:
    """Note that the user has had this code run. Where the file cannot be written, the code stays unknown.

    imports:   what is imported, in order, as run.json calls it.
    checksums: path below RUN/code -> SHA-256.
    """
    if not checksums or is_known(imports, checksums):
        return
    path = _file()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        opened = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(opened, "a", encoding="ascii") as file:
            file.write(f"{_digest(imports, checksums)}\n")


def is_known(imports: Sequence[str], checksums: Mapping[str, str]) -> bool:
    """Return whether the user has had exactly this code run before."""
    try:
        lines = _file().read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return False
    return bool(checksums) and _digest(imports, checksums) in lines


def _file() -> Path:
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path("~/.local/state").expanduser()) / "t2t" / "known-code"


def _digest(imports: Sequence[str], checksums: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps([list(imports), sorted(checksums.items())]).encode()).hexdigest()
