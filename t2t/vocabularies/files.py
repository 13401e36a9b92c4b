"""Base class of the vocabularies that are read from a file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any, Self

from etils import epath

from t2t.errors import UserError
from t2t.paths import LocalPath
from t2t.stored_paths import check_name, stored_path
from t2t.vocabularies.base import Vocabulary


@dataclass(frozen=True, kw_only=True)
class FileVocabulary(Vocabulary):
    """A vocabulary with a file at `path`. A class that reads further files from the same directory overrides `files`."""

    path: LocalPath

    def files(self) -> tuple[str, ...]:
        """Return the path as the only file."""
        return (self.path,)

    def identity(self) -> tuple[Hashable, ...]:
        """Return the class, the settings and the SHA-256 of each file."""
        return (*super().identity(), *(hashlib.sha256(read(file)).hexdigest() for file in self.files()))

    def relocated(self, directory: str) -> Self:
        """Copy the files into `directory`, see `Vocabulary.relocated`."""
        for file in self.files():
            _copy(file, epath.Path(directory) / epath.Path(file).name)
        return replace(self, path=epath.Path(self.path).name)

    def in_directory(self, directory: str) -> Self:
        """Return the vocabulary with its path resolved in `directory`. Raises UserError if the path leads out of it."""
        if "://" not in directory:
            return replace(self, path=str(stored_path(directory, self.path, where=f"the vocabulary of {directory}")))
        return replace(self, path=str(epath.Path(directory) / check_name(self.path, where=directory)))


def _copy(file: str, copy: epath.Path) -> None:
    """Copy a file. Raises UserError if another one exists there."""
    content = read(file)
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        partial = copy.parent / (copy.name + ".partial")
        partial.write_bytes(content)
        partial.replace(copy)
    elif copy.read_bytes() != content:
        raise UserError(f"vocabulary {file!r}: {str(copy)!r} already exists and differs; rename one of the two files.")


def read(path: str) -> bytes:
    """Return the content of the file. Raises UserError if it cannot be read."""
    try:
        return epath.Path(path).read_bytes()
    except (OSError, ImportError) as error:
        raise UserError(
            f"vocabulary file {path!r} cannot be read: {getattr(error, 'strerror', None) or error}."
        ) from None


def stamp(path: str) -> Any:
    """Return the size and modification time of the file, so that a rewritten file is read again. Raises UserError if it cannot be read."""
    try:
        stat = os.stat(path)
    except OSError as error:
        raise UserError(f"vocabulary file {path!r} cannot be read: {error.strerror or error}.") from None
    return stat.st_size, stat.st_mtime_ns
