"""Validation of the header of a GGUF file. The package `gguf`, which reads the file afterwards, does not check counts, lengths and offsets.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2t.errors import UserError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
"""Type of a value -> format character of `struct`."""
_BOOL, _STRING, _ARRAY = 7, 8, 9
_LONGEST_NAME, _MOST_AXES, _ALIGNMENT = 65_535, 4, 32


def check_header(file: Path, sizes: Mapping[int, tuple[int, int]]) -> None:
    """Raise UserError, naming the file, if the header is damaged, points outside the file, or contains overlapping tensors.

    sizes: type of a tensor -> (numbers in a block, bytes of a block).
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    with file.open("rb") as stream:
        try:
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise UserError(f"{file}: not a GGUF file (it is empty)") from None
        with content:
            _Walk(content, str(file)).check(sizes)


class _Walk:
    """Reads a file from start to end."""

    def __init__(self, content: mmap.mmap, where: str) -> None:
        self._content, self._where, self._at, self._order = content, where, 0, "<"

    def check(self, sizes: Mapping[int, tuple[int, int]]) -> None:
        if self._content[:4] != b"GGUF":
            raise UserError(f"{self._where}: not a GGUF file (it does not start with GGUF)")
        self._at = 4
        version = self._number("I")
        if version % 65_536 == 0:  # Big-endian.
            self._order, self._at = ">", 4
            version = self._number("I")
        if version not in (2, 3):
            raise UserError(f"{self._where}: GGUF version {version}; only versions 2 and 3 are supported")
        tensors, fields = self._count(24, "tensors"), self._count(13, "fields")
        alignment = self._fields(fields)
        self._tensors(tensors, sizes, alignment)

    def _fields(self, count: int) -> int:
        alignment, seen = _ALIGNMENT, set()
        for _ in range(count):
            key = self._string("the name of a field", longest=_LONGEST_NAME)
            if not key or key in seen:
                raise self._bad(f"field {key[:80]!r} occurs twice" if key else "a field has no name")
            seen.add(key)
            kind = self._number("I")
            value = self._value(kind, f"field {key[:80]!r}")
            if key == "general.alignment":
                if kind != 4 or not value or value & (value - 1) or value > 1 << 20:
                    raise self._bad(f"general.alignment is {value}; expected a power of two")
                alignment = value
        return alignment

    def _tensors(self, count: int, sizes: Mapping[int, tuple[int, int]], alignment: int) -> None:
        found: list[tuple[int, int, str]] = []
        names = set()
        for _ in range(count):
            name = self._string("the name of a tensor", longest=_LONGEST_NAME)
            shown = f"tensor {name[:80]!r}"
            if not name or name in names:
                raise self._bad(f"{shown} occurs twice" if name else "a tensor has no name")
            names.add(name)
            axes = self._number("I")
            if not 1 <= axes <= _MOST_AXES:
                raise self._bad(f"{shown} has {axes} axes; expected 1 to {_MOST_AXES}")
            shape = [self._number("Q") for _ in range(axes)]
            kind, offset = self._number("I"), self._number("Q")
            if kind not in sizes:
                raise self._bad(f"{shown} has unknown type {kind}")
            block, size = sizes[kind]
            if 0 in shape or shape[0] % block:
                raise self._bad(
                    f"{shown} of shape {' x '.join(map(str, shape))} is not made of whole blocks of {block}"
                )
            if offset % alignment:
                raise self._bad(f"{shown} has offset {offset}, which is not a multiple of {alignment}")
            found.append((offset, math.prod(shape) // block * size, shown))
        room = len(self._content) - (self._at + -self._at % alignment)
        end = 0
        for offset, size, shown in sorted(found):
            if offset < end:
                raise self._bad(f"{shown} overlaps another tensor")
            end = offset + size
            if end > room:
                raise self._bad(f"{shown} ends {end - room:,} bytes after the end of the file")

    def _value(self, kind: int, shown: str, depth: int = 0) -> Any:
        if kind == _STRING:
            return self._string(shown)
        if kind == _ARRAY and depth < _MOST_AXES:
            inner = self._number("I")
            if inner in _SCALARS and inner != _BOOL:
                size = struct.calcsize(_SCALARS[inner])
                self._take(self._count(size, shown) * size, shown)
                return None
            for _ in range(self._count(1, shown)):
                self._value(inner, shown, depth + 1)
            return None
        if kind not in _SCALARS:
            raise self._bad(f"{shown} has unknown type {kind}")
        value = self._number(_SCALARS[kind])
        if kind == _BOOL and value > 1:
            raise self._bad(f"{shown} is {value}, neither true nor false")
        return value

    def _string(self, shown: str, *, longest: int | None = None) -> str:
        length = self._count(1, shown)
        if longest is not None and length > longest:
            raise self._bad(f"{shown} has {length:,} bytes")
        try:
            return self._take(length, shown).decode("utf-8")
        except UnicodeDecodeError:
            raise self._bad(f"{shown} is not UTF-8 text") from None

    def _count(self, size: int, shown: str) -> int:
        """Read a count of items of at least `size` bytes each. Raise UserError if they do not fit in the file."""
        count = self._number("Q")
        if count * size > len(self._content) - self._at:
            raise self._bad(f"{shown}: {count:,} items do not fit in the file")
        return count

    def _number(self, code: str) -> Any:
        kind = struct.Struct(self._order + code)
        return kind.unpack(self._take(kind.size, "a number"))[0]

    def _take(self, size: int, shown: str) -> bytes:
        if size > len(self._content) - self._at:
            raise self._bad(f"the file ends in the middle of {shown}")
        self._at += size
        return self._content[self._at - size : self._at]

    def _bad(self, reason: str) -> UserError:
        return UserError(f"{self._where}: damaged, or not a GGUF file ({reason})")
