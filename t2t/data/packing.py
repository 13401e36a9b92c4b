"""Packing of several examples into a row: first fit into a few open rows."""

from __future__ import annotations

from collections.abc import Iterable

from t2t.data.converters import Example, FeatureConverter, Row

OPEN_ROWS = 8
"""Maximum number of open rows. With more, rows pack tighter, but examples move further from their order."""


class Packer:
    """Put each example into the first open row with enough room. Without packing, each example gets its own row.

    If no row has room and `OPEN_ROWS` are open, the fullest one is finished. `rows` is the complete state.
    """

    def __init__(self, layout: FeatureConverter, *, pack: bool) -> None:
        self._layout = layout
        self._pack = pack
        self._rows: list[list[Example]] = []
        self._room: list[tuple[int, ...]] = []

    @property
    def rows(self) -> list[Row]:
        """The open rows, oldest first."""
        return list(self._rows)

    @rows.setter
    def rows(self, rows: Iterable[Row]) -> None:
        self._rows = [list(row) for row in rows]
        self._room = []
        for row in self._rows:
            room = self._layout.capacity
            for example in row:
                room = _less(room, self._layout.sizes(example))
            self._room.append(room)

    def add(self, example: Example) -> list[Row]:
        """Add an example that fits a row. Return the rows that this finishes, if any."""
        if not self._pack:
            return [[example]]
        done: list[Row] = []
        sizes = self._layout.sizes(example)
        i = self._first_with(sizes)
        if i == OPEN_ROWS:
            done.append(self._pop(min(range(OPEN_ROWS), key=lambda j: sum(self._room[j]))))
            i = len(self._rows)
        if i == len(self._rows):
            self._rows.append([])
            self._room.append(self._layout.capacity)
        left = _less(self._room[i], sizes)
        self._rows[i].append(example)
        self._room[i] = left
        if min(left) == 0:
            done.append(self._pop(i))
        return done

    def _first_with(self, sizes: tuple[int, ...]) -> int:
        """Return the index of the first open row with enough room, or the number of open rows if there is none."""
        for i, room in enumerate(self._room):
            for left, size in zip(room, sizes, strict=True):
                if size > left:
                    break
            else:
                return i
        return len(self._room)

    def flush(self) -> list[Row]:
        """Return the open rows, oldest first, and clear them."""
        rows, self.rows = self.rows, []
        return rows

    def _pop(self, i: int) -> Row:
        del self._room[i]
        return self._rows.pop(i)


def _less(room: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a - b for a, b in zip(room, sizes, strict=True))
