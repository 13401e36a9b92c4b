"""SHA-256 checksums of files, and lists of files."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from etils import epath

from t2t.json_files import expect
from t2t.stored_paths import inside, stored_path

_CHUNK = 1 << 24


def digest(file: epath.Path | Path) -> tuple[int, str]:
    """Return a file's size in bytes and its SHA-256 in hexadecimal. Raises OSError."""
    sha256, size = hashlib.sha256(), 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            sha256.update(chunk)
            size += len(chunk)
    return size, sha256.hexdigest()


def names_beneath(directory: epath.Path | Path) -> list[str]:
    """Return the names of all files in a directory tree, such as "folder/file", in alphabetical order. Raises OSError."""
    if "://" in str(directory):
        return sorted(_remote(epath.Path(directory), ""))

    def fail(error: OSError) -> None:
        raise error

    found = []
    for folder, _, files in os.walk(directory, onerror=fail):  # does not follow links to directories
        beneath = Path(folder).relative_to(directory)
        found += [(beneath / file).as_posix() for file in files]
    return sorted(found)


def table(directory: Path, names: Iterable[str]) -> dict[str, list[Any]]:
    """Return name -> [size, SHA-256] for files in a directory, as JSON values. Raises UserError if a link points outside the directory."""
    return {name: list(digest(inside(directory, name, where=str(directory)))) for name in names}


def problem(directory: Path, expected: Any, present: Iterable[str], *, where: Path) -> str | None:
    """Return the first difference between the files and their checksums, or None if all are equal.

    expected: the result of `table` at the time of writing.
    present:  names of files that `expected` must contain.
    where:    the file with `expected`. Raises UserError if its content is not such a table, or if a name in it points outside the directory.
    """
    for name, value in expect(expected, dict, str(where)).items():
        path = stored_path(directory, name, where=str(where))
        if not path.is_file():
            return f"{path}: the file is missing, but {where.name} lists it"
        if list(digest(path)) != value:
            return f"{path}: the file has changed since it was written ({where.name} has another checksum)"
    unknown = [name for name in present if name not in expected]
    return f"{directory / unknown[0]}: {where.name} does not list this file" if unknown else None


def is_directory(path: epath.Path | Path) -> bool:
    """Return whether the path is a directory. Raises OSError if the file system is unavailable."""
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
