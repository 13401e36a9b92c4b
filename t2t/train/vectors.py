"""Evaluation of vectors of texts: similarity of two texts, and retrieval of a query's text among all others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import compress
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from t2t.decode import fetch, mesh_of, place
from t2t.nn.model import Model
from t2t.nn.pooling import unit
from t2t.train import task_metrics
from t2t.train.eval_examples import Source
from t2t.train.results import EvalResult
from t2t.train.task_metrics import Raw, text_of
from t2t.train.teacher_forcing import EvaluatedObjective, cropped
from t2t.types import Batch, Params

_BLOCK = 1024
"""Number of queries that are compared with all texts at a time."""
_EQUAL = 1e-6
"""Cosines that differ by less are equal: products of equal vectors may be rounded differently."""


def evaluate_vectors(model: Model, params: Params, source: Source, before: Callable[[], None]) -> EvalResult:
    """Evaluate a task of vectors of texts.

    If the task has metrics of predictions, they get the cosine of the first two texts of each example. Otherwise the metrics are "retrieval_accuracy"
    and "mrr", see `t2t.tasks.add_retrieval`, and those of the objective if it is evaluated: "objective", also as "loss", and its own. Its negatives are
    the examples of a batch of the evaluation.

    before: called before each batch.
    """
    similar = task_metrics.predicts(source.task)  # a pair with a low score is no positive
    objective = None if source.objective is None or similar else EvaluatedObjective(source.objective)
    raws: list[Raw] = []
    vectors: list[np.ndarray] = []
    read = source.read()
    for batch, some in read:
        before()
        counts = [int(raw["texts"]) for raw in some]
        moved = place(cropped(batch), mesh_of(params))
        found = fetch(_vectors(model, params, moved, slots=max(counts)))
        vectors += [rows[:count] for rows, count in zip(found, counts, strict=False)]
        if objective is not None:
            objective.add(model, params, batch)
        raws += some
    known = [not task_metrics.hidden(raw) for raw in raws]
    source.warn_of_examples(read, known)
    metrics = {} if objective is None else objective.metrics()
    if "objective" in metrics:
        metrics = {"loss": metrics["objective"], **metrics}
    rows, more = (_similarity if similar else _retrieval)(source, raws, vectors, known)
    return EvalResult(
        task=source.data.task,
        split=source.data.split,
        examples=len(raws),
        unanswered=len(known) - sum(known),
        trimmed=read.trimmed,
        metrics={**metrics, **more},
        predictions=rows,
    )


@partial(jax.jit, static_argnums=0, static_argnames="slots")
def _vectors(model: Model, params: Params, batch: Batch, *, slots: int) -> Float[Array, "B S D"]:
    assert batch.encoder is not None, "an encoder needs batch.encoder"
    return unit(model.vectors(params, model.hidden(params, batch), batch.encoder.segments, slots=slots))


def _similarity(
    source: Source, raws: Sequence[Raw], vectors: Sequence[np.ndarray], known: Sequence[bool]
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Return the predictions, and the task's metrics of the cosines."""
    cosines = [float(np.dot(*found[:2].astype(np.float64))) for found in vectors]
    targets = [text_of(raw["targets_pretokenized"]) for raw in raws]
    rows = [
        {"inputs": first, "second": second, **({"targets": target} if answered else {}), "prediction": f"{cosine:.4f}"}
        for (first, second), target, cosine, answered in zip(map(_texts, raws), targets, cosines, known, strict=True)
    ]
    if not any(known):
        return rows, {}
    judged = [str(cosine) for cosine in compress(cosines, known)]
    some = list(compress(raws, known)), list(compress(targets, known)), judged, list(compress(cosines, known))
    return rows, task_metrics.of_predictions(source.task, *some)


def _retrieval(
    source: Source, raws: Sequence[Raw], vectors: Sequence[np.ndarray], known: Sequence[bool]
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Return the most similar text of each query and the rank of its positive, and the metrics of the ranks."""
    sizes = np.array([len(found) - 1 for found in vectors])
    right = np.cumsum(sizes) - sizes  # the positive is the first text after the query
    queries = np.stack([found[0] for found in vectors])
    texts = np.concatenate([found[1:] for found in vectors])
    names = [text for raw in raws for text in _texts(raw)[1:]]
    rows, ranks = [], []
    for start in range(0, len(queries), _BLOCK):
        cosines = queries[start : start + _BLOCK] @ texts.T
        for i, row in enumerate(cosines, start):
            rank = 1 + int((row > row[right[i]] + _EQUAL).sum())
            ranks.append(rank)
            # Of equal texts, the positive is the best.
            best = right[i] if rank == 1 else int(np.argmax(row))
            rows.append(
                {
                    "inputs": _texts(raws[i])[0],
                    "targets": names[right[i]],
                    "prediction": names[best],
                    "correct": rank == 1,
                    "rank": rank,
                }
            )
    found = np.array(ranks, np.float64)
    return rows, {"retrieval_accuracy": float((found == 1).mean()), "mrr": float((1 / found).mean())}


def _texts(raw: Raw) -> list[str]:
    return [text_of(text) for text in raw["texts_pretokenized"]]
