"""Full rows of random tokens in place of a task's: nothing is read, the same on every machine."""

from __future__ import annotations

import numpy as np

from t2t.data.converters import Example, Layout
from t2t.train.experiment import Experiment
from t2t.types import Batch

MASKED = 0.15
"""Share of an encoder's tokens that are to be predicted, as in BERT."""


def batch(experiment: Experiment, seed: int = 0) -> Batch:
    """Return a batch of NumPy arrays in the layout of the experiment's data: an example a row, no padding; ids uniform from 1 on.

    An encoder predicts 15% of its tokens, a label at the first place, or a span at the first two, as its head has it.
    """
    data, model = experiment.data, experiment.model
    layout = Layout(
        kind=model.kind,
        inputs_length=data.inputs_length,
        targets_length=data.targets_length,
        loss_on_inputs=data.loss_on_inputs,
    )
    random = np.random.default_rng(seed)

    def ids(length: int) -> np.ndarray:
        return random.integers(1, model.vocab_size, length).astype(np.int32)

    def example() -> Example:
        if model.kind != "encoder":
            return {"inputs": ids(data.inputs_length), "targets": ids(data.targets_length)}
        length = data.inputs_length
        targets, weights = ids(length), (random.random(length) < MASKED).astype(np.float32)
        if model.output != "words":
            classes = length if model.output == "span" else max(len(getattr(model, "labels", ())), 1)
            targets = random.integers(0, classes, length).astype(np.int32)
        if model.output in ("label", "span"):
            weights = (np.arange(length) < (2 if model.output == "span" else 1)).astype(np.float32)
        return {"inputs": ids(length), "targets": targets, "weights": weights}

    return layout.batch([[example()] for _ in range(data.batch_size)])


def tokens(rows: Batch) -> int:
    """Return a batch's tokens, inputs and targets, that are not padding."""
    return sum(int(np.sum(np.asarray(side.segments) > 0)) for side in (rows.encoder, rows.decoder) if side is not None)


def places(rows: Batch) -> int:
    """Return the places a batch has for tokens."""
    return sum(int(np.size(side.ids)) for side in (rows.encoder, rows.decoder) if side is not None)


def examples(rows: Batch) -> int:
    """Return the examples a batch's rows are packed from."""
    most = np.zeros(np.shape(rows.targets)[0], np.int32)
    for side in (rows.encoder, rows.decoder):
        if side is not None:
            most = np.maximum(most, np.max(np.asarray(side.segments), axis=1))
    return int(np.sum(most))
