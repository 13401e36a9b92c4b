"""Byte vocabulary."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from t2t.errors import UserError
from t2t.limits import ExtraIds
from t2t.vocabularies.base import Vocabulary


@dataclass(frozen=True, kw_only=True)
class Bytes(Vocabulary):
    """UTF-8 bytes as tokens, as in ByT5 (https://arxiv.org/abs/2105.13626). Ids: padding 0, EOS 1, unknown 2, byte + 3."""

    extra_ids: ExtraIds = 100

    @property
    def size(self) -> int:
        """259 plus the number of extra ids."""
        return 259 + self.extra_ids

    @property
    def eos_id(self) -> int:
        """1, the end-of-sequence id."""
        return 1

    @property
    def unk_id(self) -> int:
        """2, the unknown id. No text encodes to it."""
        return 2

    def encode(self, text: str) -> list[int]:
        """Return the byte values + 3. Raises UserError if the text is not valid Unicode (lone surrogates)."""
        try:
            return [byte + 3 for byte in text.encode("utf-8")]
        except UnicodeEncodeError as error:
            raise UserError(f"text {text[:40]!r} is not valid Unicode: {error.reason} at {error.start}.") from None

    def _decode(self, ids: list[int]) -> str:
        parts: list[str] = []
        for is_byte, run in itertools.groupby(ids, key=lambda i: 3 <= i < 259):
            if is_byte:
                parts.append(bytes(i - 3 for i in run).decode("utf-8", errors="ignore"))
            else:
                parts.extend(f"<extra_id_{self.size - 1 - i}>" for i in run if i >= 259)
        return "".join(parts)
