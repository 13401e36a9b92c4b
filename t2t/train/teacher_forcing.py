"""Loss and accuracy when the right tokens stand before each predicted one."""

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
from t2t.types import Batch, Params, Tokens


class TeacherForced:
    """What a model makes of targets when it sees the right ones before each, summed over batches.

    scores:    each example's log-likelihood in nats, weighted.
    wanted:    each example's target ids at the places of weight.
    predicted: the likeliest ids there.
    first:     the likeliest id at each example's first place, whether or not it has weight.
    """

    def __init__(self) -> None:
        self.scores: list[float] = []
        self.wanted: list[list[int]] = []
        self.predicted: list[list[int]] = []
        self.first: list[int] = []
        self._correct = self._weight = 0.0
        self._counts: np.ndarray = np.zeros(0)

    def add(self, model: Model, params: Params, batch: Batch, rows: int) -> None:
        """Add the first `rows` rows of a host batch; those below are padding."""
        batch = _cropped(batch)
        made = fetch(token_scores(model, params, place(batch, mesh_of(params))))
        weights = np.asarray(batch.weights, np.float64)
        targets = np.asarray(batch.targets)
        # In float64, so that neither the order nor the number of batches shows.
        values = np.where(weights > 0, made.log_probs.astype(np.float64) * weights, 0.0).sum(axis=1)
        self.scores += values[:rows].tolist()
        self._correct += float(((made.predicted == targets) * weights).sum())
        self._weight += float(weights.sum())
        there = weights > 0
        counts = np.bincount(targets[there], weights[there], minlength=len(self._counts)).astype(np.float64)
        counts[: len(self._counts)] += self._counts
        self._counts = counts
        for row in range(rows):
            self.wanted.append(targets[row][there[row]].tolist())
            self.predicted.append(made.predicted[row][there[row]].tolist())
            self.first.append(int(made.predicted[row][0]))

    def bits_per_byte(self, texts: Sequence[str]) -> float:
        """Return the bits that a byte of the targets costs: all tokens' nats, of EOS too, over ln 2 and the UTF-8 bytes of `texts`, the targets' own; NaN without any.

        Models of different vocabularies compare by it, for it does not depend on how text is cut into tokens.
        """
        size = sum(len(text.encode("utf-8", errors="surrogatepass")) for text in texts)
        return -sum(self.scores) / math.log(2) / (size or math.nan)

    def metrics(self) -> dict[str, float]:
        """Return "loss" in nats a token, "perplexity", "token_accuracy" and "unigram_loss"; nothing where nothing had weight.

        unigram_loss: the entropy of these very targets' frequencies, which no model that ignores the context can be below.
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
    """What an objective makes of examples, summed over batches. Without dropout, and the same each time."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._total: dict[str, np.ndarray] = {}

    def add(self, model: Model, params: Params, batch: Batch) -> None:
        """Add a host batch."""
        made = fetch(_reported(self._objective, model, params, place(batch, mesh_of(params))))
        for name, pair in made.items():
            self._total[name] = self._total.get(name, np.zeros(2)) + np.asarray(pair, np.float64)

    def metrics(self) -> dict[str, float]:
        """Return "objective" and the objective's own metrics, as means; without those that nothing had weight for."""
        return {name: float(value / weight) for name, (value, weight) in self._total.items() if weight}


@partial(jax.jit, static_argnums=(0, 1))
def _reported(objective: Objective, model: Model, params: Params, batch: Batch) -> dict[str, Any]:
    sums = objective.loss(model, params, batch)
    return {"objective": (sums.objective, objective.weight(batch)), **objective.metrics(sums)}


def _cropped(batch: Batch) -> Batch:
    """Cut off columns that are padding in every row, down to a power of two: short examples need not pay for long ones."""

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
