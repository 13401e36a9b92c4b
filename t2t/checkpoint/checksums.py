"""Checksums of a checkpoint's files: written when it is whole, compared before it is used.

STEP/checksums-00000-of-00002.json holds name -> [bytes, sha256] for process 0's part of the files. A checkpoint is sealed when all parts
are there; one that is not was cut off between its last array and its seal.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Collection, Iterator

from etils import epath

_PART = re.compile(r"checksums-(\d{5})-of-(\d{5})\.json")
_CHUNK = 1 << 24
_WAIT = 3600.0
"""Seconds after which the other processes' parts are given up."""


def seal(path: epath.Path, *, process: int = 0, processes: int = 1) -> None:
    """Read this process's part of the files of a checkpoint and write their checksums. To be called on all processes."""
    names = _names(path)[process::processes]
    found = {name: list(_digest(path / name)) for name in names}
    part = path / f"checksums-{process:05d}-of-{processes:05d}.json"
    partial = path / f".{part.name}.partial"
    partial.write_text(json.dumps(found, indent=0) + "\n")
    partial.rename(part)


def wait_for_seal(path: epath.Path, *, seconds: float = _WAIT) -> None:
    """Return when all processes have sealed their parts. Raises TimeoutError."""
    until = time.monotonic() + seconds
    while not is_sealed(path):
        if time.monotonic() > until:
            raise TimeoutError(f"{path}: not all processes wrote their checksums within {seconds:.0f} s")
        time.sleep(0.05)


def is_sealed(path: epath.Path) -> bool:
    """Whether the checkpoint was finished: all parts of its checksums are there."""
    parts = _parts(path)
    return bool(parts) and len(parts) == parts[0][1]


def damage(
    path: epath.Path, folders: Collection[str] | None = None, *, process: int = 0, processes: int = 1
) -> list[str]:
    """Return a line for each file that is missing or not as it was written, its path in it; [] where all are.

    folders: compares only files in these. process, processes: compares only this process's part of them.
    """
    if not is_sealed(path):
        return [f"{path}: not finished, its checksums are missing"]
    try:
        expected = {name: value for part, _ in _parts(path) for name, value in json.loads(part.read_text()).items()}
    except ValueError as error:
        return [f"{path}: its checksums are unreadable ({error})"]
    names = sorted(name for name in expected if folders is None or name.split("/")[0] in folders)
    return list(_compare(path, {name: expected[name] for name in names[process::processes]}))


def _compare(path: epath.Path, expected: dict[str, list[object]]) -> Iterator[str]:
    for name, (size, digest) in expected.items():
        file = path / name
        try:
            have, found = _digest(file)
        except FileNotFoundError:
            yield f"{file}: the checkpoint is damaged, the file is missing"
            continue
        except OSError as error:
            yield f"{file}: the checkpoint cannot be read ({error.strerror or error})"
            continue
        if have != size:
            yield f"{file}: the checkpoint is damaged, the file has {have:,} bytes and was written with {size:,}"
        elif found != digest:
            yield f"{file}: the checkpoint is damaged, the file's checksum is not what was written"


def _parts(path: epath.Path) -> list[tuple[epath.Path, int]]:
    """Return each part's file and how many there should be."""
    if not path.is_dir():
        return []
    matches = [(entry, match) for entry in path.iterdir() if (match := _PART.fullmatch(entry.name))]
    return sorted(((entry, int(match[2])) for entry, match in matches), key=lambda part: part[0].name)


def _names(path: epath.Path) -> list[str]:
    """Return the files beneath, "folder/file", without checksums."""
    found: list[str] = []

    def walk(folder: epath.Path, prefix: str) -> None:
        for entry in folder.iterdir():
            if entry.is_dir():
                walk(entry, f"{prefix}{entry.name}/")
            elif prefix or not entry.name.lstrip(".").startswith("checksums-"):
                found.append(prefix + entry.name)

    walk(path, "")
    return sorted(found)


def _digest(file: epath.Path) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()
