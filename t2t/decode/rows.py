"""Batch id lists of any lengths into few shapes, so that few programs are compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from t2t.errors import UserError
from t2t.types import Tokens

Ids = Sequence[int]
Name = Callable[[int], str]
"""Returns the name of the i-th input for error messages."""


def text_name(i: int) -> str:
    """Return the default name of the i-th input: "text 1", "text 2", ..."""
    return f"text {i + 1}"


class TooLong(UserError):
    """Error for texts with more tokens than the model can take. sizes: index of each such text -> (its tokens, the maximum)."""

    def __init__(self, message: str, sizes: Mapping[int, tuple[int, int]]) -> None:
        super().__init__(message)
        self.sizes = dict(sizes)


def check_fits(inputs: Sequence[Ids], most: int | None, limit: int | None, name: Name) -> None:
    """Raise TooLong if an input has more than `most` tokens. limit: the model's number of positions."""
    if most is None:
        return
    long = {i: (len(ids), max(most, 0)) for i, ids in enumerate(inputs) if len(ids) > most}
    for i, (size, _) in long.items():
        raise TooLong(
            f"{name(i)} has {size} tokens; the maximum is {max(most, 0)} for the model's {limit} positions.",
            long,
        )


def bucket(size: int, *, least: int = 16, limit: int | None = None) -> int:
    """Return the power of two to which `size` is padded: at least `least`, at most `limit`."""
    if limit is not None and size > limit:
        raise ValueError(f"size {size} is over the limit of {limit}")
    padded = max(least, 1 << max(size - 1, 0).bit_length())
    return padded if limit is None else min(padded, limit)


@dataclass(frozen=True)
class Group:
    """The items of one batch: their indices, and the number of rows of the padded batch."""

    indices: tuple[int, ...]
    rows: int


def groups(sizes: Sequence[tuple[int, ...]], batch_size: int, parts: int = 1) -> Iterator[Group]:
    """Yield batches of items of similar size, largest first, so that a batch that does not fit in memory fails at once.

    sizes: lengths of each item after padding.
    parts: the number of rows of a batch is a multiple of this.
    """
    order = sorted(range(len(sizes)), key=lambda i: (sizes[i], -i), reverse=True)
    start, known = 0, set()
    while start < len(order):
        end = start
        # A batch has items of one size, unless it is less than half full: padding costs less than compiling another program.
        while end < len(order) and end - start < batch_size:
            if sizes[order[end]] != sizes[order[start]] and end - start >= batch_size // 2:
                break
            end += 1
        shape = tuple(max(column) for column in zip(*(sizes[i] for i in order[start:end]), strict=True))
        rows = batch_size if shape in known else min(bucket(end - start, least=1), batch_size)
        if rows == batch_size:
            known.add(shape)
        yield Group(tuple(order[start:end]), -(-rows // parts) * parts)
        start = end


def tokens(rows: Sequence[Ids], shape: tuple[int, int], prefixes: Sequence[int] | None = None) -> Tokens:
    """Return rows padded at the end to `shape` [B, L], with padding rows at the end. Each row is one segment.

    prefixes: the length of each row's prefix; None if there is no `Tokens.prefix`.
    """
    lengths = np.zeros(shape[0], np.int32)
    lengths[: len(rows)] = [len(row) for row in rows]
    place = np.arange(shape[1], dtype=np.int32)[None]
    real = place < lengths[:, None]
    prefix = None
    if prefixes is not None:
        ends = np.zeros(shape[0], np.int32)
        ends[: len(rows)] = prefixes
        prefix = (real & (place < ends[:, None])).astype(np.int32)
    return Tokens(
        ids=filled(rows, shape, np.int32),
        positions=np.where(real, place, 0).astype(np.int32),
        segments=real.astype(np.int32),
        prefix=prefix,
    )


def filled(rows: Sequence[Sequence[float]], shape: tuple[int, int], dtype: type) -> np.ndarray:
    """Return rows of numbers, padded with 0 to `shape`."""
    out: np.ndarray = np.zeros(shape, dtype)
    for into, row in zip(out, rows, strict=False):
        into[: len(row)] = row
    return out
