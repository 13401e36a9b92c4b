"""Text, JSON lines and delimited files as data sources, with an index of block positions."""

from __future__ import annotations

import copy
import dataclasses
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
from t2t.tasks.sources.packed import open_unpacked
from t2t.tasks.sources.readers import DelimitedReader, JsonReader, Reader, Record, TextReader
from t2t.tasks.sources.values import LISTS, BadRecord, TypeInference
from t2t.tasks.splitting import split_of

log = logging.getLogger(__name__)
_INDEX_VERSION = 2
_BLOCK = 256  # records; the unit of shuffling and reading
_MAX_PROBLEMS = 5
_WORTH_KEEPING = 1 << 20  # minimum file size in bytes for caching the index
_SAMPLE = 1000  # records from which field types are inferred


class LineSource(FileSource):
    """Files of records in the format of a `Reader`."""

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

    def with_columns(self, numbers: Sequence[int]) -> tuple[LineSource, list[str]]:
        """Return the source with numbered columns, from 0, and the field names of the given columns.

        Unless the columns have names (`columns`), the files then have no header.

        Raises:
          UserError: the files have no columns, or not as many.
        """
        if not isinstance(self.reader, DelimitedReader):
            raise UserError(f"{self}: only columns of CSV and TSV files have numbers. Nearest: the name of a field.")
        if self.reader.columns is not None:
            for number in numbers:
                if number >= len(self.reader.columns):
                    raise UserError(f"{self}: there is no column {number}. Nearest: {len(self.reader.columns) - 1}.")
            return self, [self.reader.columns[number] for number in numbers]
        other = copy.copy(self)
        other.reader = dataclasses.replace(self.reader, numbered=True)
        other._clear_cache()
        return other, [str(number) for number in numbers]

    def _head(self, stream: BinaryIO, path: str) -> tuple[tuple[str, ...], int]:
        try:
            return self.reader.header(stream)
        except BadRecord as bad:
            raise UserError(f"{path}:1: {bad}.") from None

    def _infer(self, paths: Sequence[str]) -> tuple[Mapping[str, type | None], Sequence[str]]:
        types, wanted = TypeInference(), self.declared or ()
        read = 0
        for path in paths:
            with open_unpacked(path) as stream:
                columns, line = self._head(stream, path)
                for record in self.reader.records(stream, line, columns, None):
                    if record.values is None:
                        self._refuse(path, record)
                        continue
                    types.add(record.values)
                    read += 1
                    if read >= _SAMPLE and not any(types.has_no_value(name) for name in wanted):
                        return types.fields(), types.common_fields()
        if not read:
            raise UserError(f"{self}: has no readable record, so the fields cannot be inferred.")
        return types.fields(), types.common_fields()

    def _refuse(self, path: str, record: Record) -> None:
        if self.on_bad == "stop":
            raise UserError(f"{path}:{record.line}: {record.problem}. (on_bad='skip' skips and counts such records.)")

    def _scan(self, path: str) -> Index:
        stamp = stamp_of(path)
        kept = self._cache_file(path, stamp)
        if kept is not None and os.path.exists(kept):
            try:
                return _load(kept, stamp)
            except (OSError, UserError, ValueError, KeyError, TypeError, EOFError, BadZipFile, zlib.error) as error:
                log.warning("%s: rebuilding the cached index, which cannot be read: %s", kept, error)
        index = self._read_through(path, stamp)
        if kept is not None:
            _save(kept, index)
        return index

    def _cache_file(self, path: str, stamp: tuple[int, int]) -> str | None:
        if stamp[0] < _WORTH_KEEPING:
            return None
        fields = [(name, str(kind)) for name, kind in self.fields().items()]
        key = (
            _INDEX_VERSION,
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
        with open_unpacked(path) as stream:
            columns, line = self._head(stream, path)
            start, count, size = stream.tell(), [0] * len(names), 0
            end = start
            for record in self.reader.records(stream, line, columns, self.fields()):
                if size == _BLOCK:
                    blocks.append((start, end))
                    counts.append(count)
                    start, count, size = end, [0] * len(names), 0
                end = record.end
                if record.values is None:
                    self._refuse(path, record)
                    skipped += 1
                    if len(problems) < _MAX_PROBLEMS:
                        problems.append(f"{path}:{record.line}: {record.problem}")
                    continue
                size += 1
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
        with open_unpacked(path) as stream:
            stream.seek(start)
            # Only the block's bytes, so that no reader reads past its end.
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
    """Return a source of plain text in UTF-8, with the field `text`.

    Args:
      files: a path, a glob pattern or several of them, all in the split "train"; or a dict of these by split. Compressed files (gzip,
        bzip2, xz, zstd) are unpacked once, into the cache directory.
      unit: unit of an example: a "line", or a "paragraph" (lines up to a blank line). Blank lines are skipped.
      held_out: fraction of the examples for the split "validation", or fractions by split. A hash of the example decides.
      on_bad: what to do with invalid UTF-8: "stop" raises a UserError that names file and line, "skip" skips and counts it.
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
    """Return a source of JSON lines: one object in each line.

    Args:
      files: see `text`.
      fields: required fields of every object. A dict gives their types (str, int, float, bool, or a list of one of these, as list[str]);
        otherwise each field has the type that most of the first 1000 objects have. A field with both integers and floats has the type
        float. A dotted name, "answers.text", addresses a field of a nested object. Default: the fields that the task uses, or all fields
        that most objects have.
      held_out: see `text`; a hash of the line, or of the field `split_by`, decides.
      split_by: objects with the same value in this field are in the same split.
      on_bad: what to do with broken JSON, a missing field or a field of another type: "stop", or "skip" and count it.
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
    """Return a source of comma-separated values (RFC 4180). Fields are text unless `fields` gives their types.

    Args:
      files: see `text`.
      columns: names of the columns. Default: the first line of each file, unless the task gives columns by number: then the
        files have no header.
      fields, held_out, split_by: see `jsonl`.
      delimiter: one character.
      quotes: whether `"` quotes fields.
      on_bad: what to do with a row that has a wrong number of columns, broken quotes or invalid UTF-8: "stop", or "skip" and count it.
    """
    if len(delimiter) != 1:
        raise UserError(f"delimiter {delimiter!r}: must be one character.")
    for name, kind in fields.items() if isinstance(fields, Mapping) else ():
        if kind in LISTS:
            raise UserError(
                f"field {name!r} is declared {kind!r}: a delimited file cannot have lists; declare it as str."
            )
    reader = DelimitedReader(delimiter=delimiter, quotes=quotes, columns=None if columns is None else tuple(columns))
    return LineSource(files, reader=reader, fields=fields, held_out=held_out, split_by=split_by, on_bad=on_bad)


def tsv(files: Patterns | Mapping[str, Patterns], *, quotes: bool = False, **options: Any) -> LineSource:
    """Return a source of tab-separated values without quotes; otherwise like `csv`."""
    return csv(files, delimiter="\t", quotes=quotes, **options)
