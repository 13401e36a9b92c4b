"""RUN/checksums.json: the checksums of run.json, of the files of the vocabulary, and of the original files of an imported model.

Checkpoints have their own checksums. Older runs may have no such file: they are read without it, and it is written when they resume.

run.json is replaced safely: the new checksums are first written next to the old ones. Files that match either of them are valid.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2t.checksums import is_directory, names_beneath, problem, table
from t2t.errors import UserError
from t2t.json_files import read_json

CHECKSUMS = "checksums.json"
RECORD = "run.json"
PARTIALS = (f"{RECORD}.partial", f"{CHECKSUMS}.partial")
"""Files that may be left if a process ends before it has written run.json."""
FOLDERS = ("vocabulary", "huggingface")
"""The folders whose files have checksums, in addition to run.json."""
_NEXT = "checksums.next.json"
_TIMES = 3
"""How often files that do not match are read again before they count as damaged."""


def check(directory: Path) -> None:
    """Compare the files of a run with its checksums. A run without checksums is not checked.

    Raises UserError, which names the file, if one has changed, is missing, or has no checksum.
    """
    for _ in range(_TIMES):
        problems = []
        for file in (directory / CHECKSUMS, directory / _NEXT):
            if not file.is_file():
                break
            problems.append(_problem(directory, file))
            if problems[-1] is None:
                return
        if not problems:
            return
        time.sleep(0.05)  # a training that starts may have written only one of the files
    raise UserError(
        f"{problems[0]}. If you changed it on purpose, delete {directory / CHECKSUMS}: the run is then read without it,"
        " and is written again when training resumes"
    )


def write_record(directory: Path, text: str) -> None:
    """Write run.json and the checksums. If the process ends at any moment, the run can still be read."""
    content = text.encode()
    after = {**table(directory, _names(directory)), RECORD: [len(content), hashlib.sha256(content).hexdigest()]}
    if (directory / CHECKSUMS).is_file():
        _write(directory / _NEXT, after)
    _replace(directory / RECORD, content)
    _write(directory / CHECKSUMS, after)
    (directory / _NEXT).unlink(missing_ok=True)


def seal(directory: Path) -> None:
    """Write the checksums again after a file was added."""
    _write(directory / CHECKSUMS, table(directory, _names(directory)))


def _names(directory: Path) -> list[str]:
    names = [RECORD] if (directory / RECORD).is_file() else []
    for folder in FOLDERS:
        if is_directory(directory / folder):
            names += [f"{folder}/{name}" for name in names_beneath(directory / folder)]
    # Files that start with a dot belong to the system. Partial files are left by a process that ended.
    return [name for name in names if not (name.rpartition("/")[2].startswith(".") or name.endswith(".partial"))]


def _problem(directory: Path, file: Path) -> str | None:
    try:
        return problem(directory, read_json(file), _names(directory), where=file)
    except FileNotFoundError as error:
        return f"{error.filename}: the file is missing"


def _write(path: Path, checksums: Mapping[str, Any]) -> None:
    _replace(path, (json.dumps(checksums, indent=0) + "\n").encode())


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
