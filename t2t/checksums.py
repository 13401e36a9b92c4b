"""SHA-256 checksums of files, and which files there are."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from etils import epath

_CHUNK = 1 << 24


def digest(file: epath.Path | Path) -> tuple[int, str]:
    """Return a file's bytes and its SHA-256 in hexadecimal. Raises OSError."""
    found, size = hashlib.sha256(), 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            found.update(chunk)
            size += len(chunk)
    return size, found.hexdigest()


def names_beneath(directory: epath.Path | Path) -> list[str]:
    """Return the files in a directory and its folders, "folder/file", in alphabetical order. Raises OSError."""
    if "://" in str(directory):
        return sorted(_remote(epath.Path(directory), ""))

    def fail(error: OSError) -> None:
        raise error

    found = []
    for folder, _, files in os.walk(directory, onerror=fail):  # a link to a directory is not followed
        beneath = Path(folder).relative_to(directory)
        found += [(beneath / file).as_posix() for file in files]
    return sorted(found)


def is_directory(path: epath.Path | Path) -> bool:
    """Whether there is a directory. Raises OSError where that cannot be told: a file system that is away is not an empty one."""
    if "://" in str(path):
        return path.is_dir()
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _remote(folder: epath.Path, prefix: str) -> Iterator[str]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _remote(entry, f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name
