"""Handle texts that exceed the model's positions or the memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

from t2t.decode import TooLong
from t2t.errors import UserError
from t2t.vocabularies import Vocabulary

T = TypeVar("T")
Name = Callable[[int], str]
"""Return the name of the i-th text for errors."""
Rows = Sequence[dict[str, Any]]
"""Rows with "inputs" and, for pairs of texts, "second"."""
Way = Literal["stop", "truncate", "skip"]
OPTIONS = "--too-long truncate cuts the end of such texts, --too-long skip leaves them out."
"""Advice for texts that are too long, for errors of the command line."""


class Lengths:
    """Runs a function on rows and handles those that are too long: raises an error, truncates them or skips them."""

    def __init__(self, way: Way, vocabulary: Vocabulary, options: str = OPTIONS) -> None:
        """Set the way to handle texts that are too long. options: advice to append to errors."""
        self._way, self._vocabulary, self._options = way, vocabulary, options
        self._long: list[str] = []

    def apply(self, compute: Callable[[Rows, Name], list[T]], rows: Rows, name: Name) -> list[T]:
        """Return the results of `compute` for the rows, without the skipped ones. A truncated row has the key "truncated".

        Raises UserError if a text is too long and the way is "stop", and TooLong if nothing of a text fits.
        """
        places = list(range(len(rows)))
        rows = list(rows)
        cut: set[int] = set()

        def place(i: int) -> str:
            return name(places[i])

        while rows:
            try:
                return compute(rows, place)
            except TooLong as error:
                if self._way == "stop":
                    raise UserError(f"{error} {self._options}") from None
                self._long += [place(i) for i in error.sizes if places[i] not in cut]
                if self._way == "skip":
                    kept = [i for i in range(len(rows)) if i not in error.sizes]
                    rows, places = [rows[i] for i in kept], [places[i] for i in kept]
                else:
                    cut |= {places[i] for i in error.sizes}
                    for i, (tokens, most) in error.sizes.items():
                        rows[i] = self._cut(rows[i], tokens, most, error)
        return []

    @property
    def message(self) -> str | None:
        """A line on the truncated or skipped texts, or None."""
        if not self._long:
            return None
        done = "truncated" if self._way == "truncate" else "skipped"
        return f"{len(self._long):,} texts are too long and were {done}, the first is {self._long[0]}"

    def _cut(self, row: dict[str, Any], tokens: int, most: int, error: TooLong) -> dict[str, Any]:
        """Return the row with its text truncated to fit. In a pair, the second text is truncated."""
        field = "second" if "second" in row else "inputs"
        text = row[field]
        room = most - (tokens - self._tokens(text))  # without the other tokens of the row
        fits, too_many = 0, len(text)
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            fits, too_many = (middle, too_many) if self._tokens(text[:middle]) <= room else (fits, middle)
        if not fits:
            raise error
        return {**row, field: text[:fits], "truncated": True}

    def _tokens(self, text: str) -> int:
        return len(self._vocabulary.encode_marked(text))
