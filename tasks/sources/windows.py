"""Windows of a fixed number of characters of one text, as nanoGPT trains on them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from t2t.errors import UserError
from t2t.tasks.sources.blocks import BlockSource
from t2t.tasks.sources.packed import open_unpacked
from t2t.tasks.splitting import TRAIN

HELD_OUT = "validation"
_BLOCK = 256


def text_of(file: str | os.PathLike[str]) -> str:
    """Return the text of a file in UTF-8, compressed or not.

    Raises:
      UserError: the file cannot be read, is damaged, or is not UTF-8.
    """
    path = os.path.expanduser(os.fspath(file))
    with open_unpacked(path) as stream:
        content = stream.read()
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8: {error.reason} at byte {error.start}.") from None


class CharacterWindows(BlockSource):
    """Windows of `length` characters. The text is one stream: a window may begin and end anywhere.

    The split "train" is the first part of the text. It has as many windows as characters, each at a random place, so most of them overlap others. The places
    are the same on every machine and in any reading order. The split "validation" is the rest of the text, cut into windows one after the other; a last part
    that is shorter is left out.

    text:     the whole text.
    length:   characters of a window, at least 2. A window is the fields `inputs`, its first character, and `targets`, all others.
    held_out: share of the text for "validation".
    seed:     another seed gives other places.

    Raises UserError if a split is shorter than a window.
    """

    def __init__(self, text: str, *, length: int, held_out: float = 0.1, seed: int = 0) -> None:
        super().__init__(splits=[TRAIN, HELD_OUT])
        end = int(len(text) * (1 - held_out))
        self.parts = {TRAIN: text[:end], HELD_OUT: text[end:]}
        self.length, self.seed = length, seed
        if length < 2:
            raise UserError(f"length {length} of windows of characters: must be 2 or more. Nearest: 2.")
        for split, part in self.parts.items():
            if len(part) < length:
                raise UserError(
                    f"length {length} of windows of characters: split {split!r} has {len(part)} characters. Nearest: {max(len(part), 2)}."
                )

    def __str__(self) -> str:
        return f"windows of {self.length} characters"

    def fields(self) -> Mapping[str, type]:
        """Return `inputs` and `targets`, both text."""
        return {"inputs": str, "targets": str}

    def block_sizes(self, split: str) -> np.ndarray:
        """Return 256 for every block but the last."""
        size = len(self.parts[split]) // (1 if split == TRAIN else self.length)
        return np.minimum(_BLOCK, size - np.arange(0, size, _BLOCK))

    def read_block(self, split: str, block: int) -> Sequence[Mapping[str, Any]]:
        """Return the windows of a block."""
        part, count = self.parts[split], int(self.block_sizes(split)[block])
        if split == TRAIN:
            key = hashlib.blake2b(f"windows/{block}/{self.seed}".encode(), digest_size=8).digest()
            draw = np.random.Generator(np.random.PCG64(int.from_bytes(key, "little")))
            starts = draw.integers(len(part) - self.length + 1, size=count)
        else:
            starts = (block * _BLOCK + np.arange(count)) * self.length
        windows = [part[start : start + self.length] for start in starts.tolist()]
        return [{"inputs": window[0], "targets": window[1:]} for window in windows]
