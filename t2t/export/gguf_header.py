"""The header of a GGUF file, walked through before the package `gguf` reads it: that one takes counts, lengths and offsets as they are.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
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
"""Kind of a value -> how `struct` reads it."""
_BOOL, _STRING, _ARRAY = 7, 8, 9
_LONGEST_NAME, _MOST_AXES, _ALIGNMENT = 65_535, 4, 32


def check_header(file: Path, sizes: Mapping[int, tuple[int, int]]) -> None:
    """Check that everything the header says lies within the file and that tensors do not lie over one another.

    sizes: kind of a tensor -> numbers in a block, and bytes of a block.
    Raises UserError, naming the file.
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
    """Goes through a file from its start."""

    def __init__(self, content: mmap.mmap, where: str) -> None:
        self._content, self._where, self._at, self._order = content, where, 0, "<"

    def check(self, sizes: Mapping[int, tuple[int, int]]) -> None:
        if self._content[:4] != b"GGUF":
            raise UserError(f"{self._where}: not a GGUF file (it does not begin with GGUF)")
        self._at = 4
        version = self._number("I")
        if version % 65_536 == 0:  # written on a machine of the other byte order
            self._order, self._at = ">", 4
            version = self._number("I")
        if version not in (2, 3):
            raise UserError(f"{self._where}: GGUF of version {version}; versions 2 and 3 are read")
        tensors, fields = self._count(24, "tensors"), self._count(13, "fields")
        alignment = self._fields(fields)
        self._tensors(tensors, sizes, alignment)

    def _fields(self, count: int) -> int:
        alignment, seen = _ALIGNMENT, set()
        for _ in range(count):
            key = self._string("the name of a field", longest=_LONGEST_NAME)
            if not key or key in seen:
                raise self._bad(f"field {key[:80]!r} is there twice" if key else "a field has no name")
            seen.add(key)
            kind = self._number("I")
            value = self._value(kind, f"field {key[:80]!r}")
            if key == "general.alignment":
                if kind != 4 or not value or value & (value - 1) or value > 1 << 20:
                    raise self._bad(f"general.alignment is {value}; a power of two is wanted")
                alignment = value
        return alignment

    def _tensors(self, count: int, sizes: Mapping[int, tuple[int, int]], alignment: int) -> None:
        found: list[tuple[int, int, str]] = []
        names = set()
        for _ in range(count):
            name = self._string("the name of a tensor", longest=_LONGEST_NAME)
            shown = f"tensor {name[:80]!r}"
            if not name or name in names:
                raise self._bad(f"{shown} is there twice" if name else "a tensor has no name")
            names.add(name)
            axes = self._number("I")
            if not 1 <= axes <= _MOST_AXES:
                raise self._bad(f"{shown} has {axes} axes; 1 to {_MOST_AXES} are read")
            shape = [self._number("Q") for _ in range(axes)]
            kind, offset = self._number("I"), self._number("Q")
            if kind not in sizes:
                raise self._bad(f"{shown} is of kind {kind}, which is none of GGUF's")
            block, size = sizes[kind]
            if 0 in shape or shape[0] % block:
                raise self._bad(f"{shown} of {' x '.join(map(str, shape))} is not whole blocks of {block}")
            if offset % alignment:
                raise self._bad(f"{shown} begins at {offset}, which is not a multiple of {alignment}")
            found.append((offset, math.prod(shape) // block * size, shown))
        room = len(self._content) - (self._at + -self._at % alignment)
        end = 0
        for offset, size, shown in sorted(found):
            if offset < end:
                raise self._bad(f"{shown} lies over another one")
            end = offset + size
            if end > room:
                raise self._bad(f"{shown} ends {end - room:,} bytes behind the file's end")

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
            raise self._bad(f"{shown} is of kind {kind}, which is none of GGUF's")
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
        """Return how many things of at least `size` bytes follow; they must fit the file."""
        count = self._number("Q")
        if count * size > len(self._content) - self._at:
            raise self._bad(f"{shown}: {count:,} of them do not fit the file")
        return count

    def _number(self, code: str) -> Any:
        kind = struct.Struct(self._order + code)
        return kind.unpack(self._take(kind.size, "a number"))[0]

    def _take(self, size: int, shown: str) -> bytes:
        if size > len(self._content) - self._at:
            raise self._bad(f"the file ends within {shown}")
        self._at += size
        return self._content[self._at - size : self._at]

    def _bad(self, reason: str) -> UserError:
        return UserError(f"{self._where}: damaged, or not a GGUF file ({reason})")
