"""SHA-256 checksums of files, and which files there are."""

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


def table(directory: Path, names: Iterable[str]) -> dict[str, list[Any]]:
    """Return name -> [bytes, SHA-256] of files in a directory, as JSON values. Raises UserError where one is a link to elsewhere."""
    return {name: list(digest(inside(directory, name, where=str(directory)))) for name in names}


def problem(directory: Path, expected: Any, there: Iterable[str], *, where: Path) -> str | None:
    """Return in what files differ from what `table` returned when they were written, None where in nothing.

    there: names of the files that must all be among them.
    where: the file that `expected` comes from. Raises UserError where it holds no such table, or a name in it leads out of the directory.
    """
    for name, value in expect(expected, dict, str(where)).items():
        path = stored_path(directory, name, where=str(where))
        if not path.is_file():
            return f"{path}: the file is missing, and {where.name} names it"
        if list(digest(path)) != value:
            return f"{path}: the file is not as it was written ({where.name} has another checksum)"
    unknown = [name for name in there if name not in expected]
    return f"{directory / unknown[0]}: {where.name} does not name this file" if unknown else None


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
