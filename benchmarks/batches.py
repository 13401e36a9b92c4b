"""The inputs of the cases in NumPy, drawn from a fixed seed: every peer makes the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.cases import Case

SPECIAL = 4
"""Ids from here on are words; 0 is padding, 1 ends."""
PACKED = 3
"""Examples in a packed row."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Token ids of a batch without padding, [B L] each; positions and segments are those of the examples in a row.

    shifted: `ids` shifted right within each example, from 0.
    """

    ids: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    shifted: np.ndarray

    @property
    def tokens(self) -> int:
        """How many there are."""
        return self.ids.size


def rows(case: Case, length: int, *, examples: int = 1, seed: int = 0, count: int | None = None) -> Rows:
    """Return rows full of `examples` examples each, whose lengths differ from row to row."""
    random = np.random.default_rng(seed)
    shape = (case.sizes.rows if count is None else count, length)
    ids = random.integers(SPECIAL, case.sizes.vocab_size, shape).astype(np.int32)
    starts = np.zeros(shape, bool)
    starts[:, 0] = True
    for row in starts:
        row[1 + random.choice(length - 1, examples - 1, replace=False)] = True
    segments = np.cumsum(starts, axis=1).astype(np.int32)
    places = np.broadcast_to(np.arange(length), shape)
    positions = (places - np.maximum.accumulate(np.where(starts, places, 0), axis=1)).astype(np.int32)
    shifted = np.where(starts, 0, np.roll(ids, 1, axis=1)).astype(np.int32)
    return Rows(ids=ids, positions=positions, segments=segments, shifted=shifted)


def pair(case: Case, *, packed: bool) -> tuple[Rows, Rows]:
    """Return an encoder-decoder's inputs and targets; the same ids, packed or not."""
    examples = PACKED if packed else 1
    sizes = case.sizes
    return rows(case, sizes.inputs, examples=examples), rows(case, sizes.targets, examples=examples, seed=1)


def masked(case: Case, whole: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Return the inputs of masked language modelling, 15% of the tokens replaced by one mask, and 1.0 where they are, [B L] each."""
    chosen = np.random.default_rng(2).random(whole.ids.shape) < 0.15
    return np.where(chosen, SPECIAL - 1, whole.ids).astype(np.int32), chosen.astype(np.float32)


def corpus(case: Case) -> list[np.ndarray]:
    """Return texts of ids below 259, of lengths as texts have them (log-normal), int32 [N] each."""
    random = np.random.default_rng(0)
    lengths = np.maximum(random.lognormal(np.log(case.sizes.mean_text) - 0.5, 1.0, case.sizes.texts), 2).astype(int)
    return [random.integers(3, 259, length).astype(np.int32) for length in lengths]
