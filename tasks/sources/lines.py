"""Text, JSON lines and delimited files as data sources, with an index of where their blocks begin."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO
from zipfile import BadZipFile

import numpy as np

from t2t.errors import UserError
from t2t.json_files import parse_json
from t2t.tasks.cache import cache_directory
from t2t.tasks.sources.files import FileSource, Index, Patterns, stamp_of
from t2t.tasks.sources.packed import opened
from t2t.tasks.sources.readers import DelimitedReader, JsonReader, Reader, Record, TextReader
from t2t.tasks.sources.values import LISTS, Bad, Inference
from t2t.tasks.splitting import split_of

log = logging.getLogger(__name__)
_VERSION = 2
_BLOCK = 256  # records; the unit of shuffling and of reading again
_PROBLEMS = 5
_WORTH_KEEPING = 1 << 20  # bytes of a file whose index goes to the cache
_SAMPLE = 1000  # records that the types of fields are told from


class LineSource(FileSource):
    """Files of records that a `Reader` understands."""

    def __init__(
        self,
        files: Patterns | Mapping[str, Patterns],
        *,
        reader: Reader,
        fields: Sequence[str] | Mapping[str, type] | None = None,
        held_out: float | Mapping[str, float] = 0.0,
        split_by: str | None = None,
        on_bad: str = "stop",
    ) -> None:
        super().__init__(files, fields=fields, held_out=held_out, split_by=split_by, on_bad=on_bad)
        self.reader = reader
        self.format = reader.name

    def _head(self, stream: BinaryIO, path: str) -> tuple[tuple[str, ...], int]:
        try:
            return self.reader.header(stream)
        except Bad as bad:
            raise UserError(f"{path}:1: {bad}.") from None

    def _infer(self, paths: Sequence[str]) -> tuple[Mapping[str, type | None], Sequence[str]]:
        found, wanted = Inference(), self.declared or ()
        read = 0
        for path in paths:
            with opened(path) as stream:
                columns, line = self._head(stream, path)
                for record in self.reader.records(stream, line, columns, None):
                    if record.values is None:
                        self._refuse(path, record)
                        continue
                    found.add(record.values)
                    read += 1
                    if read >= _SAMPLE and not any(found.lacks(name) for name in wanted):
                        return found.fields(), found.usual()
        if not read:
            raise UserError(f"{self}: has no record that can be read; the fields cannot be told.")
        return found.fields(), found.usual()

    def _refuse(self, path: str, record: Record) -> None:
        if self.on_bad == "stop":
            raise UserError(
                f"{path}:{record.line}: {record.problem}. (on_bad='skip' leaves such records out and counts them.)"
            )

    def _scan(self, path: str) -> Index:
        stamp = stamp_of(path)
        kept = self._cache_file(path, stamp)
        if kept is not None and os.path.exists(kept):
            try:
                return _load(kept, stamp)
            except (OSError, UserError, ValueError, KeyError, TypeError, EOFError, BadZipFile, zlib.error) as error:
                log.warning("%s: the cached index cannot be read and is made again: %s", kept, error)
        index = self._read_through(path, stamp)
        if kept is not None:
            _save(kept, index)
        return index

    def _cache_file(self, path: str, stamp: tuple[int, int]) -> str | None:
        if stamp[0] < _WORTH_KEEPING:
            return None
        fields = [(name, str(kind)) for name, kind in self.fields().items()]
        key = (
            _VERSION,
            _BLOCK,
            os.path.realpath(path),
            stamp,
            repr(self.reader),
            fields,
            list(self.shares.items()),
            self.split_by,
            self.on_bad,
        )
        return str(cache_directory() / "indexes" / (hashlib.sha256(repr(key).encode()).hexdigest()[:32] + ".npz"))

    def _read_through(self, path: str, stamp: tuple[int, int]) -> Index:
        names = list(self.splits) if self.shares else [""]
        blocks: list[tuple[int, int]] = []
        counts: list[list[int]] = []
        skipped = 0
        problems: list[str] = []
        with opened(path) as stream:
            columns, line = self._head(stream, path)
            start, count, held = stream.tell(), [0] * len(names), 0
            end = start
            for record in self.reader.records(stream, line, columns, self.fields()):
                if held == _BLOCK:
                    blocks.append((start, end))
                    counts.append(count)
                    start, count, held = end, [0] * len(names), 0
                end = record.end
                if record.values is None:
                    self._refuse(path, record)
                    skipped += 1
                    if len(problems) < _PROBLEMS:
                        problems.append(f"{path}:{record.line}: {record.problem}")
                    continue
                held += 1
                count[names.index(self._split(record)) if self.shares else 0] += 1
            blocks.append((start, end))
            counts.append(count)
        return Index(
            stamp=stamp,
            columns=columns,
            blocks=np.array(blocks, np.int64),
            counts=np.array(counts, np.int64),
            skipped=skipped,
            problems=tuple(problems),
        )

    def _split(self, record: Record) -> str:
        assert record.values is not None
        key = record.raw if self.split_by is None else str(record.values[self.split_by]).encode("utf-8")
        return split_of(key, self.shares)

    def _read(self, path: str, index: Index, split: str, block: int) -> Sequence[Mapping[str, Any]]:
        start, end = (int(number) for number in index.blocks[block])
        examples = []
        with opened(path) as stream:
            stream.seek(start)
            # Only the block's bytes, so that no reader looks ahead over its end.
            part = io.BytesIO(stream.read(end - start))
            for record in self.reader.records(part, 1, index.columns, self.fields()):
                if record.values is not None and (not self.shares or self._split(record) == split):
                    examples.append(record.values)
        return examples


def _save(file: str, index: Index) -> None:
    os.makedirs(os.path.dirname(file), exist_ok=True)
    partial = f"{file}.{os.getpid()}.partial"
    rest = json.dumps({"columns": index.columns, "skipped": index.skipped, "problems": index.problems})
    with open(partial, "wb") as stream:
        np.savez(stream, blocks=index.blocks, counts=index.counts, rest=np.array(rest))
    os.replace(partial, file)


def _load(file: str, stamp: tuple[int, int]) -> Index:
    with np.load(file) as found:
        rest = parse_json(str(found["rest"]), where=file, shape=dict)
        return Index(
            stamp=stamp,
            columns=tuple(rest["columns"]),
            blocks=found["blocks"],
            counts=found["counts"],
            skipped=rest["skipped"],
            problems=tuple(rest["problems"]),
        )


def text(
    files: Patterns | Mapping[str, Patterns],
    *,
    unit: str = "line",
    held_out: float | Mapping[str, float] = 0.0,
    on_bad: str = "stop",
) -> LineSource:
    """Plain text in UTF-8, field `text`.

    Args:
      files: a path, a glob pattern or several of them, all of them the split "train"; or a dict of these by split. Compressed files (gzip, bzip2, xz,
        zstd) are read as what they hold: each is unpacked once, into the cache directory.
      unit: what an example is: a "line", or a "paragraph" (lines up to a blank one). Blank lines are no examples.
      held_out: share of the examples that goes to "validation", or shares by split; chosen by a hash of the example.
      on_bad: "stop" at invalid UTF-8 with a UserError that names file and line, or "skip" and count it.
    """
    if unit not in ("line", "paragraph"):
        raise UserError(f"unit={unit!r} of a text source: must be 'line' or 'paragraph'.")
    return LineSource(files, reader=TextReader(unit=unit), fields={"text": str}, held_out=held_out, on_bad=on_bad)


def jsonl(
    files: Patterns | Mapping[str, Patterns],
    *,
    fields: Sequence[str] | Mapping[str, type] | None = None,
    held_out: float | Mapping[str, float] = 0.0,
    split_by: str | None = None,
    on_bad: str = "stop",
) -> LineSource:
    """JSON lines: an object a line.

    Args:
      files: as for `text`.
      fields: the fields every object must have, with their types (str, int, float, bool, or a list of one of these, as list[str]) if given as a
        dict, else the type that most of the first 1000 objects have; a field with both whole and other numbers is of floats. A field of an object
        within the object has a dotted name, "answers.text". None: those that the task uses, or all that most objects have.
      held_out: as for `text`; chosen by a hash of the line, or of the field `split_by`.
      split_by: objects with the same value in this field get into the same split.
      on_bad: "stop" at broken JSON, a missing field or one of another type, or "skip" and count it.
    """
    return LineSource(files, reader=JsonReader(), fields=fields, held_out=held_out, split_by=split_by, on_bad=on_bad)


def csv(
    files: Patterns | Mapping[str, Patterns],
    *,
    columns: Sequence[str] | None = None,
    fields: Sequence[str] | Mapping[str, type] | None = None,
    delimiter: str = ",",
    quotes: bool = True,
    held_out: float | Mapping[str, float] = 0.0,
    split_by: str | None = None,
    on_bad: str = "stop",
) -> LineSource:
    """Comma-separated values (RFC 4180); fields are text unless `fields` gives their types.

    Args:
      files: as for `text`.
      columns: names of the columns; None reads them from each file's first line.
      fields, held_out, split_by: as for `jsonl`.
      delimiter: one character.
      quotes: whether `"` quotes fields.
      on_bad: "stop" at a row with another number of columns, broken quoting or invalid UTF-8, or "skip" and count it.
    """
    if len(delimiter) != 1:
        raise UserError(f"delimiter {delimiter!r}: must be one character.")
    for name, kind in fields.items() if isinstance(fields, Mapping) else ():
        if kind in LISTS:
            raise UserError(f"field {name!r} is declared {kind!r}: a delimited file has no lists; read it as str.")
    reader = DelimitedReader(delimiter=delimiter, quotes=quotes, columns=None if columns is None else tuple(columns))
    return LineSource(files, reader=reader, fields=fields, held_out=held_out, split_by=split_by, on_bad=on_bad)


def tsv(files: Patterns | Mapping[str, Patterns], *, quotes: bool = False, **options: Any) -> LineSource:
    """Tab-separated values without quoting; otherwise as `csv`."""
    return csv(files, delimiter="\t", quotes=quotes, **options)
