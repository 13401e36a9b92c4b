"""Synthetic batches: full rows of random tokens, the same on every machine. No data is read."""

from __future__ import annotations

import numpy as np

from t2t.data.converters import Example
from t2t.train.experiment import Experiment
from t2t.types import Batch

MASKED = 0.15
"""Share of an encoder's tokens to predict, as in BERT."""


def batch(experiment: Experiment, seed: int = 0) -> Batch:
    """Return a batch of NumPy arrays in the layout of the experiment's data: one example per row, no padding, uniform ids from 1 on.

    An encoder predicts 15% of its tokens, a label at the first token, or a span at the first two tokens, depending on its head.
    """
    model, rows = experiment.model, experiment.rows()
    extras = {extra.name for extra in rows.extras}
    random = np.random.default_rng(seed)

    def value(name: str, length: int) -> np.ndarray:
        if name in extras:
            return random.normal(size=length).astype(rows.dtype(name))
        if name == "weights":
            some = random.random(length) < MASKED
            return (some if model.answer_places is None else np.arange(length) < model.answer_places).astype(np.float32)
        count = model.num_outputs(length) if name == "targets" else model.vocab_size
        return random.integers(int(count == model.vocab_size), count, length).astype(np.int32)

    def example() -> Example:
        return {name: value(name, length) for name, length in rows.limits.items()}

    return rows.batch([[example()] for _ in range(experiment.data.batch_size)])


def tokens(rows: Batch) -> int:
    """Return the number of tokens in a batch (inputs and targets) without padding."""
    return sum(int(np.sum(np.asarray(side.segments) > 0)) for side in (rows.encoder, rows.decoder) if side is not None)


def places(rows: Batch) -> int:
    """Return the number of tokens in a batch including padding."""
    return sum(int(np.size(side.ids)) for side in (rows.encoder, rows.decoder) if side is not None)


def examples(rows: Batch) -> int:
    """Return the number of examples that are packed in a batch's rows."""
    most = np.zeros(np.shape(rows.targets)[0], np.int32)
    for side in (rows.encoder, rows.decoder):
        if side is not None:
            most = np.maximum(most, np.max(np.asarray(side.segments), axis=1))
    return int(np.sum(most))
