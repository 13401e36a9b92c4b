"""Reconstruct a corrupted text for display."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Literal

from t2t.vocabularies import Vocabulary

Kind = Literal["kept", "sentinel", "noise"]
Piece = tuple[str, Kind]


def spans(inputs_ids: Sequence[int], targets_ids: Sequence[int], vocabulary: Vocabulary) -> list[Piece]:
    """Return the text in order as pieces: kept text, and after each sentinel the noise that it replaces.

    Both ids may end in EOS and padding. The noise of sentinels that are missing in the inputs comes last, so that no token
    is lost. A sentinel without noise has no noise piece. Bytes of a character that a span splits decode to nothing.
    """
    lowest = vocabulary.size - vocabulary.extra_ids

    def runs(ids: Sequence[int]) -> Iterable[tuple[bool, list[int]]]:
        plain = [int(i) for i in ids if i not in (vocabulary.pad_id, vocabulary.eos_id)]
        for is_sentinel, run in groupby(plain, key=lambda i: i >= lowest):
            if is_sentinel:
                yield from ((True, [i]) for i in run)
            else:
                yield False, list(run)

    noise: dict[int, list[int]] = {}
    pieces: list[Piece] = []
    current: int | None = None
    for sentinel, run in runs(targets_ids):
        if sentinel:
            current = run[0]
            noise.setdefault(current, [])
        elif current is not None:
            noise[current] += run
        else:
            pieces.append((vocabulary.decode(run), "noise"))

    def named(sentinel: int) -> Iterable[Piece]:
        yield f"<extra_id_{vocabulary.size - 1 - sentinel}>", "sentinel"
        hidden = noise.pop(sentinel, [])
        if hidden:
            yield vocabulary.decode(hidden), "noise"

    kept: list[Piece] = []
    for sentinel, run in runs(inputs_ids):
        kept += named(run[0]) if sentinel else [(vocabulary.decode(run), "kept")]
    for unused in list(noise):
        kept += named(unused)
    return kept + pieces
