"""Remember the code that the user has trained with on this machine. A run with the same code needs no `--trust-code`.

The file `~/.local/state/t2t/known-code` (`$XDG_STATE_HOME/t2t/known-code` if set) has one line for each set of files: the SHA-256 of the import names
and the contents of the files. Code of another user, or code that has changed, has another checksum.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path


def remember(imports: Sequence[str], checksums: Mapping[str, str]) -> None:
    """Record that the user has run this code. If the file cannot be written, the code stays unknown.

    imports:   names of the imports in run.json, in order.
    checksums: path in RUN/code -> SHA-256.
    """
    if not checksums or is_known(imports, checksums):
        return
    path = _file()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "a", encoding="ascii") as file:
            file.write(f"{_digest(imports, checksums)}\n")


def is_known(imports: Sequence[str], checksums: Mapping[str, str]) -> bool:
    """Return whether the user has run exactly this code before."""
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
