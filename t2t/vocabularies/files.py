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
    """A vocabulary with one file, at `path`."""

    path: LocalPath

    def files(self) -> tuple[str, ...]:
        """Return the path as the only file."""
        return (self.path,)

    def identity(self) -> tuple[Hashable, ...]:
        """Return the class, the settings and the SHA-256 of the file."""
        return (*super().identity(), hashlib.sha256(read(self.path)).hexdigest())

    def relocated(self, directory: str) -> Self:
        """Copy the file into `directory`, see `Vocabulary.relocated`."""
        content = read(self.path)
        copy = epath.Path(directory) / epath.Path(self.path).name
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            partial = copy.parent / (copy.name + ".partial")
            partial.write_bytes(content)
            partial.replace(copy)
        elif copy.read_bytes() != content:
            raise UserError(
                f"vocabulary {self.path!r}: {str(copy)!r} already exists and differs; rename one of the two files."
            )
        return replace(self, path=copy.name)

    def in_directory(self, directory: str) -> Self:
        """Return the vocabulary with its path resolved in `directory`. Raises UserError if the path leads out of it."""
        if "://" not in directory:
            return replace(self, path=str(stored_path(directory, self.path, where=f"the vocabulary of {directory}")))
        return replace(self, path=str(epath.Path(directory) / check_name(self.path, where=directory)))


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
