"""Loss and accuracy with teacher forcing: each token is predicted after the correct tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from t2t.decode import fetch, mesh_of, place, token_scores
from t2t.decode.rows import bucket
from t2t.nn.model import Model
from t2t.objectives import Objective
from t2t.objectives.objective import Teacher
from t2t.types import Batch, Params, Tokens


class TeacherForced:
    """Sums of a model's teacher-forced predictions over batches.

    scores:    weighted log-likelihood of each example, in nats.
    wanted:    target ids of each example at positions with weight.
    predicted: most likely ids at these positions.
    first:     most likely id at the first position of each example, with or without weight.
    """

    def __init__(self) -> None:
        self.scores: list[float] = []
        self.wanted: list[list[int]] = []
        self.predicted: list[list[int]] = []
        self.first: list[int] = []
        self._correct = self._weight = 0.0
        self._counts: np.ndarray = np.zeros(0)

    def add(self, model: Model, params: Params, batch: Batch, rows: int) -> None:
        """Add the first `rows` rows of a host batch. The other rows are padding."""
        batch = cropped(batch)
        outputs = fetch(token_scores(model, params, place(batch, mesh_of(params))))
        weights = np.asarray(batch.weights, np.float64)
        targets = np.asarray(batch.targets)
        # In float64, so that the result does not depend on the order and number of batches.
        values = np.where(weights > 0, outputs.log_probs.astype(np.float64) * weights, 0.0).sum(axis=1)
        self.scores += values[:rows].tolist()
        self._correct += float(((outputs.predicted == targets) * weights).sum())
        self._weight += float(weights.sum())
        weighted = weights > 0
        counts = np.bincount(targets[weighted], weights[weighted], minlength=len(self._counts)).astype(np.float64)
        counts[: len(self._counts)] += self._counts
        self._counts = counts
        for row in range(rows):
            self.wanted.append(targets[row][weighted[row]].tolist())
            self.predicted.append(outputs.predicted[row][weighted[row]].tolist())
            self.first.append(int(outputs.predicted[row][0]))

    def bits_per_byte(self, texts: Sequence[str]) -> float:
        """Return the bits per UTF-8 byte of the targets: the nats of all tokens, with EOS, divided by ln 2 and by the number of bytes.

        It does not depend on the tokenization, so models with different vocabularies can be compared. NaN if there are no bytes.

        texts: the texts of the targets.
        """
        size = sum(len(text.encode("utf-8", errors="surrogatepass")) for text in texts)
        return -sum(self.scores) / math.log(2) / (size or math.nan)

    def metrics(self) -> dict[str, float]:
        """Return "loss" in nats per token, "perplexity", "token_accuracy" and "unigram_loss"; {} if nothing had weight.

        unigram_loss: the entropy of the token frequencies of these targets. It is the lowest possible loss of a model that ignores the context.
        """
        if not self._weight:
            return {}
        weight = self._weight
        loss = -sum(self.scores) / weight
        shares = self._counts[self._counts > 0] / weight
        return {
            "loss": loss,
            "perplexity": math.exp(loss) if loss < 700 else math.inf if loss >= 700 else math.nan,
            "token_accuracy": self._correct / weight,
            "unigram_loss": float(-(shares * np.log(shares)).sum()),
        }


class EvaluatedObjective:
    """Sums of an objective over batches, without dropout and deterministic."""

    def __init__(self, objective: Objective, teacher: Teacher | None = None) -> None:
        self._objective, self._teacher = objective, teacher
        self._total: dict[str, np.ndarray] = {}

    def add(self, model: Model, params: Params, batch: Batch) -> None:
        """Add a host batch."""
        taught = None if self._teacher is None else self._teacher.model
        others = None if self._teacher is None else self._teacher.params
        sums = fetch(_reported(self._objective, model, taught, params, others, place(batch, mesh_of(params))))
        for name, pair in sums.items():
            self._total[name] = self._total.get(name, np.zeros(2)) + np.asarray(pair, np.float64)

    def metrics(self) -> dict[str, float]:
        """Return the means of "objective" and of the objective's metrics. Metrics without weight are omitted."""
        return {name: float(value / weight) for name, (value, weight) in self._total.items() if weight}


@partial(jax.jit, static_argnums=(0, 1, 2))
def _reported(
    objective: Objective, model: Model, teacher: Model | None, params: Params, others: Params | None, batch: Batch
) -> dict[str, Any]:
    if teacher is None:
        sums = objective.loss(model, params, batch)
    else:
        assert others is not None, "the teacher has parameters"
        sums = objective.taught_loss(Teacher(teacher, others), model, params, batch)
    return {"objective": (sums.objective, objective.weight(batch)), **objective.metrics(sums)}


def cropped(batch: Batch) -> Batch:
    """Cut off columns that are padding in every row, down to a power of two, so that short examples cost less."""

    def width(tokens: Tokens) -> int:
        used = np.flatnonzero(np.asarray(tokens.segments).any(axis=0))
        full = tokens.ids.shape[1]
        return min(bucket(int(used[-1]) + 1 if used.size else 1), full)

    def crop(tree: Any, length: int) -> Any:
        return jax.tree.map(lambda leaf: leaf[:, :length], tree)

    encoder = None if batch.encoder is None else crop(batch.encoder, width(batch.encoder))
    main = batch.encoder if batch.decoder is None else batch.decoder
    assert main is not None
    length = width(main)
    return Batch(
        encoder=encoder,
        decoder=None if batch.decoder is None else crop(batch.decoder, length),
        targets=batch.targets[:, :length],
        weights=batch.weights[:, :length],
    )
