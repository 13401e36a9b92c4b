"""Vocabulary of given characters."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from t2t.errors import UserError
from t2t.vocabularies.base import Vocabulary

_FIRST = 3
"""Id of the first character, after padding, EOS and the unknown id."""


@dataclass(frozen=True, kw_only=True)
class Characters(Vocabulary):
    """Characters as tokens. Ids: padding 0, EOS 1, unknown 2, then the characters in order.

    characters: all characters of the texts, each once. Any other character is encoded as the unknown id.
    """

    characters: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.characters:
            raise UserError("characters '' (Characters.characters): a vocabulary needs at least one character.")
        repeated = next((one for at, one in enumerate(self.characters) if one in self.characters[:at]), None)
        if repeated is not None:
            nearest = "".join(dict.fromkeys(self.characters))
            raise UserError(
                f"characters {self.characters[:80]!r} (Characters.characters) has {repeated!r} more than once. Nearest: {nearest[:80]!r}."
            )

    @classmethod
    def of(cls, text: str) -> Characters:
        """Return the vocabulary of the characters of a text, in the order of their code points."""
        return cls(characters="".join(sorted(set(text))))

    @property
    def size(self) -> int:
        """The number of characters, plus 3 and the number of extra ids."""
        return _FIRST + len(self.characters) + self.extra_ids

    @property
    def eos_id(self) -> int:
        """1, the end-of-sequence id."""
        return 1

    @property
    def unk_id(self) -> int:
        """2, the id of all other characters."""
        return 2

    def encode(self, text: str) -> list[int]:
        """Return the ids of the characters."""
        ids = _ids(self.characters)
        return [ids.get(one, self.unk_id) for one in text]

    def _decode(self, ids: list[int]) -> str:
        end = _FIRST + len(self.characters)
        return "".join(
            self.characters[i - _FIRST] if _FIRST <= i < end else f"<extra_id_{self.size - 1 - i}>" if i >= end else ""
            for i in ids
        )


@functools.lru_cache(maxsize=16)
def _ids(characters: str) -> Mapping[str, int]:
    return {one: place for place, one in enumerate(characters, start=_FIRST)}
