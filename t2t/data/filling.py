"""Place the tokens of examples in the rows of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from t2t.types import Tokens


class RowPositions:
    """Positions of the examples' tokens in rows. The examples of a row follow one another; 0 pads the rest of the row.

    counts: number of examples in each row.
    sizes:  number of tokens in each example, [N].
    length: number of tokens in a row.
    """

    def __init__(self, counts: Sequence[int], sizes: np.ndarray, length: int) -> None:
        self._shape = (len(counts), length)
        self._sizes = sizes
        rows = np.repeat(np.arange(len(counts)), counts)
        taken = np.bincount(rows, sizes, len(counts)).astype(np.int64)
        assert not taken.size or taken.max() <= length, "a row has more tokens than its length"
        before = np.cumsum(sizes) - sizes
        count = np.arange(int(sizes.sum()))
        self._positions = count - np.repeat(before, sizes)
        self._flat_positions = count + np.repeat((rows * length - (np.cumsum(taken) - taken)[rows]), sizes)
        number = np.arange(1, len(sizes) + 1) - np.repeat(np.cumsum(counts) - counts, counts)
        self._segments = np.repeat(number, sizes)

    def scatter(self, pieces: Sequence[np.ndarray], dtype: type | str) -> np.ndarray:
        """Return [rows, length] with each value at its token's position. The concatenated pieces have one value per token, in order of the examples."""
        filled: np.ndarray = np.zeros(self._shape, dtype)
        if pieces:
            filled.reshape(-1)[self._flat_positions] = np.concatenate(pieces)
        return filled

    def tokens(self, pieces: Sequence[np.ndarray]) -> Tokens:
        """Return the tokens with their positions and segments."""
        return Tokens(
            ids=self.scatter(pieces, np.int32),
            positions=self.scatter([self._positions], np.int32),
            segments=self.scatter([self._segments], np.int32),
        )

    def left(self, sizes: np.ndarray) -> np.ndarray:
        """Return `sizes[i] - position` for each token of example i. It is positive for the first `sizes[i]` tokens."""
        return np.repeat(sizes, self._sizes) - self._positions


def sizes_of(pieces: Sequence[np.ndarray]) -> np.ndarray:
    """Return the length of each piece."""
    return np.fromiter((len(piece) for piece in pieces), np.int64, len(pieces))


def cut(stacked: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    """Return the first `sizes` [N] values of each row of `stacked`, [N, L], as copies that do not keep the rest in memory."""
    flat = stacked[np.arange(stacked.shape[1]) < sizes[:, None]]
    ends = np.cumsum(sizes).tolist()
    return [flat[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def shifted(tokens: Tokens, bos_id: int) -> Tokens:
    """Return the tokens shifted right by one inside each segment. Each segment starts with `bos_id`."""
    ids = np.roll(np.asarray(tokens.ids), 1, axis=1)
    ids = np.where(np.asarray(tokens.positions) == 0, np.int32(bos_id), ids)
    return replace(tokens, ids=np.where(np.asarray(tokens.segments) > 0, ids, np.int32(0)))
