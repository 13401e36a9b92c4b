"""Readers of text, JSON lines and delimited files. They yield one record at a time and can start at any record."""

from __future__ import annotations

import abc
import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar, NamedTuple

from t2t.errors import UserError
from t2t.json_files import parse_json
from t2t.tasks.sources.values import KIND_NAMES, BadRecord, Fields, check_fields, display, lookup

BOM = b"\xef\xbb\xbf"
_WHOLE = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


class Record(NamedTuple):
    """One record of a file.

    line:    line number of its start, from 1.
    end:     byte position after it.
    raw:     its bytes, without the line ending.
    values:  field -> value, or None for a bad record.
    problem: reason why the record is bad, or None.
    """

    line: int
    end: int
    raw: bytes
    values: Mapping[str, Any] | None
    problem: str | None = None


class Reader(abc.ABC):
    """A file format. Equal readers must have equal `repr`s: the repr is part of the key of a cached index."""

    name: ClassVar[str]

    @abc.abstractmethod
    def records(self, stream: BinaryIO, line: int, header: Sequence[str], fields: Fields | None) -> Iterator[Record]:
        """Yield the records from the stream's position, which is the start of the record on line `line`.

        Args:
          header: what `header` returned for the file.
          fields: fields to check and keep; None keeps all fields, unchecked.
        """

    def header(self, stream: BinaryIO) -> tuple[tuple[str, ...], int]:
        """Read the file's header, if it has one. Return the column names and the line number of the first record."""
        if stream.read(3) != BOM:
            stream.seek(0)
        return (), 1


def _decode(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRecord(
            f"invalid UTF-8 at byte {error.start + 1} of the line ({raw[error.start : error.start + 1]!r})"
        ) from None


def _lines(stream: BinaryIO, line: int) -> Iterator[tuple[int, int, bytes]]:
    end = stream.tell()
    for number, raw in enumerate(stream, line):
        end += len(raw)
        yield number, end, raw.rstrip(b"\r\n")


@dataclass(frozen=True)
class TextReader(Reader):
    """One example for each line or paragraph, with the field `text`. Blank lines only separate.

    unit: "line", or "paragraph": lines up to the next blank line, with their line breaks.
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
            except BadRecord as bad:
                return Record(start + offset, end, raw, None, str(bad))
        return Record(line, end, raw, {"text": raw.decode("utf-8")})


@dataclass(frozen=True)
class JsonReader(Reader):
    """One JSON object in each line. Blank lines are skipped."""

    name: ClassVar[str] = "JSON lines"

    def records(self, stream: BinaryIO, line: int, header: Sequence[str], fields: Fields | None) -> Iterator[Record]:
        """Yield the objects."""
        for number, end, raw in _lines(stream, line):
            if not raw.strip():
                continue
            try:
                found = _json(_decode(raw))
                if not isinstance(found, dict):
                    raise BadRecord(f"expected a JSON object, not {display(found)}")
                yield Record(number, end, raw, found if fields is None else check_fields(found, fields))
            except BadRecord as bad:
                yield Record(number, end, raw, None, str(bad))


def _json(text: str) -> Any:
    try:
        return parse_json(text, where="")
    except UserError as error:
        raise BadRecord(str(error).removeprefix(":1").removeprefix(": ")) from None


class _CountedLines:
    """Decoded lines for csv.reader, which takes several lines if a quoted field spans them."""

    def __init__(self, stream: BinaryIO, line: int) -> None:
        self.stream, self.line, self.end = stream, line - 1, stream.tell()
        self.taken: list[bytes] = []
        self._pushed_back: list[bytes] = []

    def __iter__(self) -> _CountedLines:
        return self

    def __next__(self) -> str:
        raw = self._pushed_back.pop() if self._pushed_back else self.stream.readline()
        if not raw:
            raise StopIteration
        self.line += 1
        self.end += len(raw)
        self.taken.append(raw)
        # An exception here would leave csv.reader inside a quoted field; `records` finds invalid UTF-8 afterwards.
        return raw.decode("utf-8", errors="surrogateescape")

    def push_back_rest(self) -> None:
        """Push back all lines taken except the first."""
        rest = self.taken[1:]
        self.line -= len(rest)
        self.end -= sum(map(len, rest))
        self.taken, self._pushed_back = self.taken[:1], [*self._pushed_back, *reversed(rest)]


@dataclass(frozen=True)
class DelimitedReader(Reader):
    """Delimited columns.

    If quotes are broken, only the first line of the record is bad and reading continues at the next line. An unclosed quote
    therefore loses no other record.

    delimiter: one character.
    quotes:    whether `"` quotes fields, which may then contain delimiters and line breaks (RFC 4180).
    columns:   names of the columns; None reads them from the first line.
    numbered:  the file has no header: its columns are "0", "1", ..., as many as the first line has.
    """

    name: ClassVar[str] = "delimited"
    delimiter: str = ","
    quotes: bool = True
    columns: tuple[str, ...] | None = None
    numbered: bool = False

    def _rows(self, lines: _CountedLines) -> Iterator[list[str]]:
        csv.field_size_limit(max(csv.field_size_limit(), 1 << 28))
        if self.quotes:
            return csv.reader(lines, delimiter=self.delimiter, strict=True)
        return csv.reader(lines, delimiter=self.delimiter, quoting=csv.QUOTE_NONE, strict=True)

    def header(self, stream: BinaryIO) -> tuple[tuple[str, ...], int]:
        """Read the column names. Raise BadRecord for an invalid header."""
        super().header(stream)
        if self.columns is not None:
            return self.columns, 1
        start = stream.tell()
        lines = _CountedLines(stream, 1)
        try:
            names = tuple(next(self._rows(lines), ()))
        except csv.Error as error:
            raise BadRecord(f"broken header: {error}") from None
        _decode(b"".join(lines.taken))
        if self.numbered:
            stream.seek(start)
            return tuple(str(number) for number in range(len(names))), 1
        if len(set(names)) != len(names) or not all(names):
            raise BadRecord(f"the header {names} has an empty or repeated column name")
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
                    span = f", in lines {start} to {lines.line}" if lines.line > start else ""
                    raise BadRecord(f"{len(row)} columns, expected {len(header)} ({', '.join(header)}){span}")
                found = dict(zip(header, row, strict=True))
                yield Record(
                    start, lines.end, raw.rstrip(b"\r\n"), found if fields is None else _parse_row(found, fields)
                )
            except csv.Error as error:
                reason = str(error)
                if len(lines.taken) > 1:
                    reason = (
                        f"a quote that opens in this line is not closed correctly ({error}, up to line {lines.line})"
                    )
                    lines.push_back_rest()
                    rows = self._rows(lines)
                yield Record(start, lines.end, b"".join(lines.taken), None, f"broken quotes: {reason}")
            except BadRecord as bad:
                yield Record(start, lines.end, b"".join(lines.taken), None, str(bad))


def _parse_row(found: Mapping[str, str], fields: Fields) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, kind in fields.items():
        text = lookup(found, name)
        try:
            values[name] = text if kind is str else _PARSE[kind](text.strip(" "))
        except (ValueError, KeyError):
            raise BadRecord(f"field {name!r} is {display(text)}, expected {KIND_NAMES[kind]}") from None
    return check_fields(values, fields)


def _match(pattern: re.Pattern[str], text: str) -> str:
    """Return the text if it matches. Python itself also accepts "1_000", "nan" and digits of other alphabets."""
    if not pattern.fullmatch(text):
        raise ValueError(text)
    return text


_PARSE: Mapping[type, Callable[[str], Any]] = {
    int: lambda text: int(_match(_WHOLE, text)),
    float: lambda text: float(_match(_NUMBER, text)),
    bool: lambda text: {"true": True, "false": False}[text.lower()],
}
