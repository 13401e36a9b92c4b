"""Records of text, JSON lines and delimited files: one at a time, from any record's place in the file."""

from __future__ import annotations

import abc
import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar, NamedTuple

from t2t.errors import nearest

BOM = b"\xef\xbb\xbf"
Fields = Mapping[str, type]


class Record(NamedTuple):
    """What was read between two places of a file.

    line:    where it starts, from 1.
    end:     byte after it.
    raw:     its bytes, without the line's end.
    values:  field -> value, or None where the record is bad.
    problem: what is wrong with it, or None.
    """

    line: int
    end: int
    raw: bytes
    values: Mapping[str, Any] | None
    problem: str | None = None


class Bad(Exception):
    """A record that cannot be read, and why."""


class Reader(abc.ABC):
    """A file format. Equal readers read equally: their `repr` is part of the key of a cached index."""

    name: ClassVar[str]

    @abc.abstractmethod
    def records(self, stream: BinaryIO, line: int, header: Sequence[str], fields: Fields | None) -> Iterator[Record]:
        """Yield the records from the stream's place on, which is the start of the record on line `line`.

        Args:
          header: what `header` returned for the file.
          fields: to be checked and kept; None keeps what there is, unchecked.
        """

    def header(self, stream: BinaryIO) -> tuple[tuple[str, ...], int]:
        """Read the file's head, if it has one; return the names of its columns and the line of the first record."""
        if stream.read(3) != BOM:
            stream.seek(0)
        return (), 1


def _decode(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Bad(
            f"invalid UTF-8 at byte {error.start + 1} of the line ({raw[error.start : error.start + 1]!r})"
        ) from None


def _lines(stream: BinaryIO, line: int) -> Iterator[tuple[int, int, bytes]]:
    end = stream.tell()
    for number, raw in enumerate(stream, line):
        end += len(raw)
        yield number, end, raw.rstrip(b"\r\n")


@dataclass(frozen=True)
class TextReader(Reader):
    """One example a line or a paragraph, field `text`; blank lines only separate.

    unit: "line", or "paragraph": lines up to the next blank one, kept with their line breaks.
    """

    name: ClassVar[str] = "text"
    unit: str = "line"

    def records(self, stream: BinaryIO, line: int, header: Sequence[str], fields: Fields | None) -> Iterator[Record]:
        """Yield the lines or paragraphs."""
        if self.unit == "line":
            for number, end, raw in _lines(stream, line):
                if raw.strip():
                    yield self._record(number, end, raw, number)
            return
        parts: list[bytes] = []
        start, last = line, stream.tell()
        for number, end, raw in _lines(stream, line):
            if raw.strip():
                start = start if parts else number
                parts.append(raw)
                last = end
            elif parts:
                yield self._record(start, last, b"\n".join(parts), start)
                parts = []
        if parts:
            yield self._record(start, last, b"\n".join(parts), start)

    def _record(self, line: int, end: int, raw: bytes, start: int) -> Record:
        for offset, part in enumerate(raw.split(b"\n")):
            try:
                _decode(part)
            except Bad as bad:
                return Record(start + offset, end, raw, None, str(bad))
        return Record(line, end, raw, {"text": raw.decode("utf-8")})


@dataclass(frozen=True)
class JsonReader(Reader):
    """One JSON object a line; blank lines are passed over."""

    name: ClassVar[str] = "JSON lines"

    def records(self, stream: BinaryIO, line: int, header: Sequence[str], fields: Fields | None) -> Iterator[Record]:
        """Yield the objects."""
        for number, end, raw in _lines(stream, line):
            if not raw.strip():
                continue
            try:
                found = json.loads(_decode(raw))
                if not isinstance(found, dict):
                    raise Bad(f"a JSON object is needed, this is {_said(found)}")
                yield Record(number, end, raw, found if fields is None else checked(found, fields))
            except json.JSONDecodeError as error:
                yield Record(number, end, raw, None, f"broken JSON: {error.msg} at column {error.colno}")
            except (Bad, RecursionError) as bad:
                yield Record(number, end, raw, None, str(bad))


class _CountedLines:
    """Decoded lines for csv.reader, which asks for as many as a quoted field goes over."""

    def __init__(self, stream: BinaryIO, line: int) -> None:
        self.stream, self.line, self.end = stream, line - 1, stream.tell()
        self.taken: list[bytes] = []

    def __iter__(self) -> _CountedLines:
        return self

    def __next__(self) -> str:
        raw = self.stream.readline()
        if not raw:
            raise StopIteration
        self.line += 1
        self.end += len(raw)
        self.taken.append(raw)
        # An exception here would leave csv.reader within a quoted field; what did not decode is found afterwards.
        return raw.decode("utf-8", errors="surrogateescape")


@dataclass(frozen=True)
class DelimitedReader(Reader):
    """Delimited columns.

    delimiter: one character.
    quotes:    whether `"` quotes fields, which may then hold delimiters and line breaks (RFC 4180).
    columns:   names of the columns; None reads them from the first line.
    """

    name: ClassVar[str] = "delimited"
    delimiter: str = ","
    quotes: bool = True
    columns: tuple[str, ...] | None = None

    def _rows(self, lines: _CountedLines) -> Iterator[list[str]]:
        csv.field_size_limit(max(csv.field_size_limit(), 1 << 28))
        if self.quotes:
            return csv.reader(lines, delimiter=self.delimiter, strict=True)
        return csv.reader(lines, delimiter=self.delimiter, quoting=csv.QUOTE_NONE, strict=True)

    def header(self, stream: BinaryIO) -> tuple[tuple[str, ...], int]:
        """Read the names of the columns. Raises Bad where they are no header."""
        super().header(stream)
        if self.columns is not None:
            return self.columns, 1
        lines = _CountedLines(stream, 1)
        try:
            names = tuple(next(self._rows(lines), ()))
        except csv.Error as error:
            raise Bad(f"broken header: {error}") from None
        _decode(b"".join(lines.taken))
        if len(set(names)) != len(names) or not all(names):
            raise Bad(f"the header {names} has an empty or repeated column name")
        stream.seek(lines.end)
        return names, lines.line + 1

    def records(self, stream: BinaryIO, line: int, header: Sequence[str], fields: Fields | None) -> Iterator[Record]:
        """Yield the rows."""
        lines = _CountedLines(stream, line)
        rows = self._rows(lines)
        while True:
            lines.taken, start = [], lines.line + 1
            try:
                row = next(rows, None)
                if row is None:
                    return
                raw = b"".join(lines.taken)
                if not row:  # a blank line
                    continue
                _decode(raw)
                if len(row) != len(header):
                    raise Bad(f"{len(row)} columns where {len(header)} are due ({', '.join(header)})")
                found = dict(zip(header, row, strict=True))
                yield Record(start, lines.end, raw.rstrip(b"\r\n"), found if fields is None else _typed(found, fields))
            except csv.Error as error:
                yield Record(start, lines.end, b"".join(lines.taken), None, f"broken quoting: {error}")
            except Bad as bad:
                yield Record(start, lines.end, b"".join(lines.taken), None, str(bad))


def _typed(found: Mapping[str, str], fields: Fields) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, kind in fields.items():
        text = present(found, name)
        try:
            values[name] = {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
        except (ValueError, KeyError):
            raise Bad(f"field {name!r} is {_said(text)}, {KIND_NAMES[kind]} is needed") from None
    return checked(values, fields)


KIND_NAMES: Mapping[type, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def present(found: Mapping[str, Any], name: str) -> Any:
    """Return a field. Raises Bad where it is missing."""
    if name not in found:
        raise Bad(f"field {name!r} is missing.{nearest(name, found)}".removesuffix("."))
    return found[name]


def checked(found: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    """Return the fields asked for. Raises Bad where one is missing or of another type."""
    values: dict[str, Any] = {}
    for name, kind in fields.items():
        value: Any = present(found, name)
        if kind is float and type(value) is int:
            value = float(value)
        actual: type = type(value)
        if actual is not kind:
            raise Bad(f"field {name!r} is {_said(value)}, {KIND_NAMES[kind]} is needed")
        if kind is int and not -(2**63) <= value < 2**63:
            raise Bad(f"field {name!r} is {value}, which does not fit 64 bits")
        if kind is str:
            try:
                value.encode("utf-8")
            except UnicodeEncodeError:
                raise Bad(f"field {name!r} has a lone surrogate, which is no character") from None
        values[name] = value
    return values


def _said(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else str(value)
    return text if len(text) <= 40 else text[:37] + "..."
