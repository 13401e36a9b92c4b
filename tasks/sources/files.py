"""Local files as a data source: checked whole before the first example is read, then read by block."""

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
from t2t.tasks.sources.values import ALLOWED, KIND_NAMES
from t2t.tasks.splitting import TRAIN, held_out_shares

log = logging.getLogger(__name__)
Patterns = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
Stamp = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Index:
    """What is known of a file once it was read through.

    stamp:    size and time of change then.
    columns:  names in its header.
    blocks:   where each block is, int64 [blocks, ...], as its reader wants it.
    counts:   examples of each split in each block, int64 [blocks, splits].
    skipped:  bad records left out.
    problems: the first few of them, as "file:line: problem".
    """

    stamp: Stamp
    columns: tuple[str, ...]
    blocks: np.ndarray
    counts: np.ndarray
    skipped: int
    problems: tuple[str, ...]


def stamp_of(path: str) -> Stamp:
    """Return what changes when a file does. Raises UserError where it is gone."""
    try:
        stat = os.stat(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from None
    return stat.st_size, stat.st_mtime_ns


class FileSource(BlockSource):
    """Files of a split, or files of which a share is held out.

    The files are found and read through at the first use, not when the source is made.

    format: what to call the files in messages.
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
            raise UserError(f"held_out={held_out!r}: the files are given for each split already; give one of the two.")
        patterns = files if isinstance(files, Mapping) else {TRAIN: files}
        self.patterns: dict[str, tuple[str, ...]] = {split: _patterns(given) for split, given in patterns.items()}
        self.split_by, self.on_bad = split_by, on_bad
        self.declared = fields if fields is None or isinstance(fields, Mapping) else self._with_split_by(fields)
        for name, kind in fields.items() if isinstance(fields, Mapping) else ():
            if kind not in KIND_NAMES:
                raise UserError(f"field {name!r} is declared {kind!r}: must be one of {ALLOWED}.")
        super().__init__(splits=list(self.patterns) if by_split else [TRAIN, *self.shares])
        self._forget()

    def _forget(self) -> None:
        self._indexes: dict[str, Index] | None = None
        self._paths: dict[str, list[str]] | None = None
        self._fields: dict[str, type] | None = None

    def with_fields(self, names: Iterable[str]) -> Self:
        """Return the source with these fields to be read, where none were declared."""
        if self.declared is not None:
            return self
        other = copy.copy(self)
        other.declared = self._with_split_by(names)
        other._forget()
        return other

    def _with_split_by(self, names: Iterable[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*names, self.split_by] if self.split_by else names))

    def __str__(self) -> str:
        found = ", ".join(f"{split}: {' '.join(patterns)}" for split, patterns in self.patterns.items())
        return f"{self.format} files ({found})"

    @abc.abstractmethod
    def _infer(self, paths: Sequence[str]) -> tuple[Mapping[str, type | None], Sequence[str]]:
        """Return the fields there are with their types, None where one is of a type that cannot be read; and those that are read where none are named."""

    @abc.abstractmethod
    def _scan(self, path: str) -> Index:
        """Read a file through. Raises UserError at a bad record unless they are to be skipped."""

    @abc.abstractmethod
    def _read(self, path: str, index: Index, split: str, block: int) -> Sequence[Mapping[str, Any]]:
        """Return the examples of a split in a block."""

    def paths(self, split: str) -> list[str]:
        """Return the files of a split, sorted. Raises UserError where there are none, or a file is in two splits."""
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
        """Return the fields and their types: declared, or found in the files.

        Raises:
          UserError: a field that is not there, or is of no type that is read.
        """
        if self._fields is None:
            if isinstance(self.declared, Mapping):
                self._fields = dict(self.declared)
                return self._fields
            paths = self.paths(next(iter(self.patterns)))
            found, usual = self._infer(paths)
            chosen: dict[str, type] = {}
            for name in self.declared if self.declared is not None else [n for n in usual if found[n]]:
                if name not in found:
                    raise UserError(f"{paths[0]}: has no field {name!r}.{nearest(name, found)}")
                kind = found[name]
                if kind is None:
                    raise UserError(
                        f"{paths[0]}: field {name!r} is no text, number, true or false, nor a list of one of these."
                    )
                chosen[name] = kind
            if not chosen:
                raise UserError(
                    f"{paths[0]}: has no field of text, numbers, true or false, nor of a list of one of these."
                )
            self._fields = chosen
        return self._fields

    def _indexed(self) -> dict[str, Index]:
        if self._indexes is None:
            if self.split_by is not None and self.split_by not in self.fields():
                raise UserError(
                    f"split_by={self.split_by!r} of {self}: no such field.{nearest(self.split_by, self.fields())}"
                )
            indexes = {path: self._scan(path) for split in self.patterns for path in self.paths(split)}
            skipped = sum(index.skipped for index in indexes.values())
            if skipped:
                first = [problem for index in indexes.values() for problem in index.problems][:3]
                log.warning("%s: %d bad records are skipped: %s", self, skipped, "; ".join(first))
            self._indexes = indexes
        return self._indexes

    def skipped(self) -> int:
        """Return how many bad records all files have that are left out, as `on_bad="skip"` asks."""
        return sum(index.skipped for index in self._indexed().values())

    def problems(self) -> list[str]:
        """Return the first few bad records of each file, as "file:line: problem"."""
        return [problem for index in self._indexed().values() for problem in index.problems]

    def _column(self, split: str) -> int:
        return list(self.splits).index(split) if self.shares else 0

    def block_sizes(self, split: str) -> np.ndarray:
        """Return the examples of `split` in each block of its files. Reads the files through the first time."""
        indexes = self._indexed()
        column = self._column(split)
        return np.concatenate([indexes[path].counts[:, column] for path in self.paths(split)])

    def read_block(self, split: str, block: int) -> Sequence[Mapping[str, Any]]:
        """Read a block again. Raises UserError where its file changed since it was read through."""
        for path in self.paths(split):
            index = self._indexed()[path]
            if block < len(index.blocks):
                if stamp_of(path) != index.stamp:
                    raise UserError(f"{path}: changed while it was in use.")
                return self._read(path, index, split, block)
            block -= len(index.blocks)
        raise UserError(f"block {block} of {self}: there is no such block.")


def _patterns(given: Patterns) -> tuple[str, ...]:
    patterns = (given,) if isinstance(given, str | os.PathLike) else tuple(given)
    if not patterns:
        raise UserError("no file is named: give a path or pattern.")
    return tuple(os.fspath(pattern) for pattern in patterns)


def _expand(split: str, patterns: Sequence[str]) -> list[str]:
    paths: set[str] = set()
    for pattern in patterns:
        if why := misspelled(pattern):
            raise UserError(f"{shown_path(pattern)} (split {split!r}) {why}")
        name = os.path.expanduser(pattern)
        found = (
            [name]
            if os.path.isfile(name)
            else [path for path in glob.glob(name, recursive=True) if os.path.isfile(path)]
        )
        if not found:
            directory = os.path.dirname(name) or "."
            beside = os.listdir(directory) if os.path.isdir(directory) else []
            raise UserError(f"{pattern}: no such file (split {split!r}).{nearest(os.path.basename(name), beside)}")
        paths.update(found)
    for path in paths:
        if not os.path.getsize(path):
            raise UserError(f"{path}: is empty (split {split!r}).")
    return sorted(paths)
