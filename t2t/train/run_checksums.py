"""RUN/checksums.json: what run.json, the vocabulary's files and those that an import kept were when they were written.

Checkpoints have checksums of their own. A run of a version that wrote no such file is read without; it is written when the run goes on.

A death while run.json is replaced is survived: the checksums to be are written beside the old ones first, and files that fit either are whole.
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
"""What a death may leave before there is a run.json."""
FOLDERS = ("vocabulary", "huggingface")
"""Whose files are covered, beside run.json."""
_NEXT = "checksums.next.json"
_TIMES = 3
"""How often files that do not fit are looked at before they count as damaged."""


def check(directory: Path) -> None:
    """Compare the files of a run that are covered with its checksums. Nothing is compared where there are none.

    Raises UserError, naming the file, where one is not as it was written, is missing, or is not among them.
    """
    for _ in range(_TIMES):
        told = []
        for file in (directory / CHECKSUMS, directory / _NEXT):
            if not file.is_file():
                break
            told.append(_problem(directory, file))
            if told[-1] is None:
                return
        if not told:
            return
        time.sleep(0.05)  # a training that begins may be between one file and the other
    raise UserError(
        f"{told[0]}. If you changed it on purpose, delete {directory / CHECKSUMS}: the run is read without, and"
        " training that goes on writes it anew"
    )


def write_record(directory: Path, text: str) -> None:
    """Write run.json, and the checksums of all that is covered; a death at any moment leaves a run that can be read."""
    content = text.encode()
    after = {**table(directory, _names(directory)), RECORD: [len(content), hashlib.sha256(content).hexdigest()]}
    if (directory / CHECKSUMS).is_file():
        _write(directory / _NEXT, after)
    _replace(directory / RECORD, content)
    _write(directory / CHECKSUMS, after)
    (directory / _NEXT).unlink(missing_ok=True)


def seal(directory: Path) -> None:
    """Write the checksums of what is there: a file was added."""
    _write(directory / CHECKSUMS, table(directory, _names(directory)))


def _names(directory: Path) -> list[str]:
    names = [RECORD] if (directory / RECORD).is_file() else []
    for folder in FOLDERS:
        if is_directory(directory / folder):
            names += [f"{folder}/{name}" for name in names_beneath(directory / folder)]
    # Files with a dot in front are the system's; partial ones are what a death left.
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
