"""Lists of ids of any lengths <-> batches of few shapes, so that few programs are compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from t2t.errors import UserError
from t2t.types import Tokens

Ids = Sequence[int]
Name = Callable[[int], str]
"""How to call the i-th input in errors."""


class TooLong(UserError):
    """Texts have more tokens than the model has positions for. sizes: of each such text, by its place: its tokens, and how many it may have."""

    def __init__(self, message: str, sizes: Mapping[int, tuple[int, int]]) -> None:
        super().__init__(message)
        self.sizes = dict(sizes)


def check_fits(inputs: Sequence[Ids], most: int | None, limit: int | None, name: Name) -> None:
    """Raise TooLong where any of the inputs has more than `most` tokens. limit: the model's positions."""
    if most is None:
        return
    long = {i: (len(ids), max(most, 0)) for i, ids in enumerate(inputs) if len(ids) > most}
    for i, (size, _) in long.items():
        raise TooLong(
            f"{name(i)} has {size} tokens; with the model's {limit} positions at most {max(most, 0)} can be taken.",
            long,
        )


def bucket(size: int, *, least: int = 16, limit: int | None = None) -> int:
    """Return the power of two that `size` is padded to, at least `least`; `limit` where that would be more than it."""
    if limit is not None and size > limit:
        raise ValueError(f"{size} is over the limit of {limit}")
    padded = max(least, 1 << max(size - 1, 0).bit_length())
    return padded if limit is None else min(padded, limit)


@dataclass(frozen=True)
class Group:
    """Items that make one batch: their indices among all, and the rows they are padded to."""

    indices: tuple[int, ...]
    rows: int


def groups(sizes: Sequence[tuple[int, ...]], batch_size: int, parts: int = 1) -> Iterator[Group]:
    """Yield batches of items that are alike in size, the largest first: what does not fit in memory fails at once.

    sizes: of each item, its lengths after padding.
    parts: the rows of a batch are made a multiple of this.
    """
    order = sorted(range(len(sizes)), key=lambda i: (sizes[i], -i), reverse=True)
    start, known = 0, set()
    while start < len(order):
        end = start
        # Only equal sizes share a batch unless it would stay less than half full: padding a few costs less than a program.
        while end < len(order) and end - start < batch_size:
            if sizes[order[end]] != sizes[order[start]] and end - start >= batch_size // 2:
                break
            end += 1
        shape = tuple(max(column) for column in zip(*(sizes[i] for i in order[start:end]), strict=True))
        # Rows of padding cost less than another program.
        rows = batch_size if shape in known else min(bucket(end - start, least=1), batch_size)
        if rows == batch_size:
            known.add(shape)
        yield Group(tuple(order[start:end]), -(-rows // parts) * parts)
        start = end


def tokens(rows: Sequence[Ids], shape: tuple[int, int], prefixes: Sequence[int] | None = None) -> Tokens:
    """Return rows padded at the end to `shape` [B, L], rows of padding below them; one segment a row.

    prefixes: how many tokens at the start of each row are its prefix, None for no `Tokens.prefix`.
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
    """Return rows of numbers padded with 0 to `shape`."""
    out: np.ndarray = np.zeros(shape, dtype)
    for into, row in zip(out, rows, strict=False):
        into[: len(row)] = row
    return out
