"""Local files as a data source: the first use checks the files completely, then examples are read by block."""

from __future__ import annotations

import abc
import copy
import glob
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from t2t.errors import UserError, nearest
from t2t.paths import misspelled, shown_path
from t2t.tasks.sources.blocks import BlockSource
from t2t.tasks.sources.values import ALLOWED_TYPES, KIND_NAMES
from t2t.tasks.splitting import TRAIN, held_out_shares

log = logging.getLogger(__name__)
Patterns = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
Stamp = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Index:
    """What a scan found in a file.

    stamp:    size and modification time at the scan.
    columns:  column names in the header.
    blocks:   position of each block, int64 [blocks, ...], in the form that its reader needs.
    counts:   examples of each split in each block, int64 [blocks, splits].
    skipped:  number of skipped bad records.
    problems: the first few of these, as "file:line: problem".
    """

    stamp: Stamp
    columns: tuple[str, ...]
    blocks: np.ndarray
    counts: np.ndarray
    skipped: int
    problems: tuple[str, ...]


def stamp_of(path: str) -> Stamp:
    """Return size and modification time, which change when the file changes. Raise UserError if it cannot be read."""
    try:
        stat = os.stat(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from None
    return stat.st_size, stat.st_mtime_ns


class FileSource(BlockSource):
    """Files for each split, or files of which a fraction is held out.

    The first use finds and scans the files, not the constructor.

    format: name of the format in messages.
    """

    format = "local"

    def __init__(
        self,
        files: Patterns | Mapping[str, Patterns],
        *,
        fields: Sequence[str] | Mapping[str, type] | None,
        held_out: float | Mapping[str, float],
        split_by: str | None,
        on_bad: str,
    ) -> None:
        if on_bad not in ("stop", "skip"):
            raise UserError(f"on_bad={on_bad!r} of {type(self).__name__}: must be 'stop' or 'skip'.")
        self.shares = held_out_shares(held_out)
        by_split = isinstance(files, Mapping)
        if by_split and self.shares:
            raise UserError(
                f"held_out={held_out!r}: the files are already given for each split; give only one of the two."
            )
        patterns = files if isinstance(files, Mapping) else {TRAIN: files}
        self.patterns: dict[str, tuple[str, ...]] = {
            split: _patterns(split_files) for split, split_files in patterns.items()
        }
        self.split_by, self.on_bad = split_by, on_bad
        self.declared = fields if fields is None or isinstance(fields, Mapping) else self._with_split_by(fields)
        for name, kind in fields.items() if isinstance(fields, Mapping) else ():
            if kind not in KIND_NAMES:
                raise UserError(f"field {name!r} is declared {kind!r}: must be one of {ALLOWED_TYPES}.")
        super().__init__(splits=list(self.patterns) if by_split else [TRAIN, *self.shares])
        self._clear_cache()

    def _clear_cache(self) -> None:
        self._indexes: dict[str, Index] | None = None
        self._paths: dict[str, list[str]] | None = None
        self._fields: dict[str, type] | None = None

    def with_fields(self, names: Iterable[str]) -> Self:
        """Return a copy that reads these fields; return the source itself if it declares its fields."""
        if self.declared is not None:
            return self
        other = copy.copy(self)
        other.declared = self._with_split_by(names)
        other._clear_cache()
        return other

    def _with_split_by(self, names: Iterable[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*names, self.split_by] if self.split_by else names))

    def __str__(self) -> str:
        found = ", ".join(f"{split}: {' '.join(patterns)}" for split, patterns in self.patterns.items())
        return f"{self.format} files ({found})"

    @abc.abstractmethod
    def _infer(self, paths: Sequence[str]) -> tuple[Mapping[str, type | None], Sequence[str]]:
        """Return all fields with their types (None if a type is not supported), and the default fields to read."""

    @abc.abstractmethod
    def _scan(self, path: str) -> Index:
        """Scan a file. Raise UserError at a bad record unless `on_bad` is "skip"."""

    @abc.abstractmethod
    def _read(self, path: str, index: Index, split: str, block: int) -> Sequence[Mapping[str, Any]]:
        """Return the examples of a split in a block."""

    def paths(self, split: str) -> list[str]:
        """Return the sorted files of a split. Raise UserError if there are none, or a file is in two splits."""
        if self._paths is None:
            paths = {name: _expand(name, patterns) for name, patterns in self.patterns.items()}
            owner: dict[str, str] = {}
            for name, found in paths.items():
                for path in found:
                    real = os.path.realpath(path)
                    if owner.setdefault(real, name) != name:
                        raise UserError(f"{path}: is both in split {owner[real]!r} and in {name!r}.")
            self._paths = paths
        return self._paths.get(split, self._paths.get(TRAIN, []))

    def fields(self) -> Mapping[str, type]:
        """Return the fields and their types, declared or inferred from the files.

        Raises:
          UserError: a missing field, or a field whose type is not supported.
        """
        if self._fields is None:
            if isinstance(self.declared, Mapping):
                self._fields = dict(self.declared)
                return self._fields
            paths = self.paths(next(iter(self.patterns)))
            found, defaults = self._infer(paths)
            fields: dict[str, type] = {}
            for name in self.declared if self.declared is not None else [field for field in defaults if found[field]]:
                if name not in found:
                    raise UserError(f"{paths[0]}: has no field {name!r}.{nearest(name, found)}")
                kind = found[name]
                if kind is None:
                    raise UserError(
                        f"{paths[0]}: field {name!r} has an unsupported type: expected text, a number, a boolean, or a list of one of these."
                    )
                fields[name] = kind
            if not fields:
                raise UserError(f"{paths[0]}: has no field with text, a number, a boolean, or a list of one of these.")
            self._fields = fields
        return self._fields

    def _indexed(self) -> dict[str, Index]:
        if self._indexes is None:
            if self.split_by is not None and self.split_by not in self.fields():
                raise UserError(
                    f"split_by={self.split_by!r} of {self}: unknown field.{nearest(self.split_by, self.fields())}"
                )
            indexes = {path: self._scan(path) for split in self.patterns for path in self.paths(split)}
            skipped = sum(index.skipped for index in indexes.values())
            if skipped:
                first = [problem for index in indexes.values() for problem in index.problems][:3]
                log.warning("%s: skipping %d bad records: %s", self, skipped, "; ".join(first))
            self._indexes = indexes
        return self._indexes

    def skipped(self) -> int:
        """Return the number of bad records in all files that `on_bad="skip"` skips."""
        return sum(index.skipped for index in self._indexed().values())

    def problems(self) -> list[str]:
        """Return the first few bad records of each file, as "file:line: problem"."""
        return [problem for index in self._indexed().values() for problem in index.problems]

    def _column(self, split: str) -> int:
        return list(self.splits).index(split) if self.shares else 0

    def block_sizes(self, split: str) -> np.ndarray:
        """Return the examples of `split` in each block of its files. The first call scans the files."""
        indexes = self._indexed()
        column = self._column(split)
        return np.concatenate([indexes[path].counts[:, column] for path in self.paths(split)])

    def read_block(self, split: str, block: int) -> Sequence[Mapping[str, Any]]:
        """Read a block. Raise UserError if its file changed after the scan."""
        for path in self.paths(split):
            index = self._indexed()[path]
            if block < len(index.blocks):
                if stamp_of(path) != index.stamp:
                    raise UserError(f"{path}: the file changed while it was in use.")
                return self._read(path, index, split, block)
            block -= len(index.blocks)
        raise UserError(f"block {block} of {self}: no such block.")


def _patterns(files: Patterns) -> tuple[str, ...]:
    patterns = (files,) if isinstance(files, str | os.PathLike) else tuple(files)
    if not patterns:
        raise UserError("no files: give a path or pattern.")
    return tuple(os.fspath(pattern) for pattern in patterns)


def _expand(split: str, patterns: Sequence[str]) -> list[str]:
    paths: set[str] = set()
    for pattern in patterns:
        if problem := misspelled(pattern):
            raise UserError(f"{shown_path(pattern)} (split {split!r}) {problem}")
        name = os.path.expanduser(pattern)
        found = (
            [name]
            if os.path.isfile(name)
            else [path for path in glob.glob(name, recursive=True) if os.path.isfile(path)]
        )
        if not found:
            directory = os.path.dirname(name) or "."
            siblings = os.listdir(directory) if os.path.isdir(directory) else []
            raise UserError(f"{pattern}: no such file (split {split!r}).{nearest(os.path.basename(name), siblings)}")
        paths.update(found)
    for path in paths:
        if not os.path.getsize(path):
            raise UserError(f"{path}: is empty (split {split!r}).")
    return sorted(paths)
