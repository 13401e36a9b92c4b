"""What becomes of texts that are longer than the model's positions, or than memory allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

from t2t.decode import TooLong
from t2t.errors import UserError
from t2t.vocabularies import Vocabulary

T = TypeVar("T")
Name = Callable[[int], str]
"""What the i-th text is called in errors."""
Rows = Sequence[dict[str, Any]]
"""Objects with "inputs" and, for pairs of texts, "second"."""
Way = Literal["stop", "truncate", "skip"]
OPTIONS = "--too-long truncate leaves such texts' end out, --too-long skip the texts."
"""What the command line can do about them."""


class Lengths:
    """Asks about rows, and deals with those that are too long: all end with an error, or their end is left out, or they are."""

    def __init__(self, way: Way, vocabulary: Vocabulary, options: str = OPTIONS) -> None:
        """Prepare to ask. options: a sentence on what can be done about texts that are too long, for errors."""
        self._way, self._vocabulary, self._options = way, vocabulary, options
        self._long: list[str] = []

    def asked(self, ask: Callable[[Rows, Name], list[T]], rows: Rows, name: Name) -> list[T]:
        """Return what `ask` answers to the rows, of those that were cut with "truncated"; those left out have no answer.

        Raises UserError for a text that is too long where nothing else is wanted, or that cannot be cut.
        """
        places = list(range(len(rows)))
        rows = list(rows)
        cut: set[int] = set()

        def place(i: int) -> str:
            return name(places[i])

        while rows:
            try:
                return ask(rows, place)
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
        """A line on what was cut or left out, or None."""
        if not self._long:
            return None
        what = "lost their end" if self._way == "truncate" else "were left out"
        return f"{len(self._long):,} texts that are too long {what}, the first of them {self._long[0]}"

    def _cut(self, row: dict[str, Any], tokens: int, most: int, error: TooLong) -> dict[str, Any]:
        """Return a row whose text, of a pair the second, is as long as fits."""
        field = "second" if "second" in row else "inputs"
        text = row[field]
        room = most - (tokens - self._tokens(text))  # beside what stands around the text
        fits, too_many = 0, len(text)
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            fits, too_many = (middle, too_many) if self._tokens(text[:middle]) <= room else (fits, middle)
        if not fits:
            raise error
        return {**row, field: text[:fits], "truncated": True}

    def _tokens(self, text: str) -> int:
        return len(self._vocabulary.encode_marked(text))
