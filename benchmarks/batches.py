"""Inputs of the cases as NumPy arrays, drawn from a fixed seed, so that all peers get the same inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.cases import Case
from benchmarks.published_layers import VOCABULARY

SPECIAL = 4
"""First id of ordinary tokens; 0 is padding, 1 is the end of text."""
PACKED = 3
"""Number of examples in a packed row."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A batch without padding, [B L] each.

    ids:       token ids.
    positions: position of each token in its example.
    segments:  number of the example in its row, from 1.
    shifted:   `ids` shifted right by one in each example, starting with 0.
    """

    ids: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    shifted: np.ndarray

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return self.ids.size


def rows(case: Case, length: int, *, examples: int = 1, seed: int = 0, count: int | None = None) -> Rows:
    """Return full rows with `examples` examples each. The lengths of the examples vary."""
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


def layer_ids(case: Case) -> np.ndarray:
    """Return ids for the decoders of one layer, which have a small vocabulary, [B L]."""
    return rows(case, case.length).ids % VOCABULARY


def pair(case: Case, *, packed: bool) -> tuple[Rows, Rows]:
    """Return the inputs and targets of an encoder-decoder. The ids are the same with and without packing."""
    examples = PACKED if packed else 1
    sizes = case.sizes
    return rows(case, sizes.inputs, examples=examples), rows(case, sizes.targets, examples=examples, seed=1)


def masked(case: Case, whole: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs for masked language modeling with 15% of the tokens masked, and weights that are 1.0 at masked positions, [B L] each."""
    chosen = np.random.default_rng(2).random(whole.ids.shape) < 0.15
    return np.where(chosen, SPECIAL - 1, whole.ids).astype(np.int32), chosen.astype(np.float32)


def corpus(case: Case) -> list[np.ndarray]:
    """Return random texts with ids below 259 and log-normal lengths, int32 [N] each."""
    random = np.random.default_rng(0)
    lengths = np.maximum(random.lognormal(np.log(case.sizes.mean_text) - 0.5, 1.0, case.sizes.texts), 2).astype(int)
    return [random.integers(3, 259, length).astype(np.int32) for length in lengths]
