"""Evaluation of encoders that predict several values for each text: any number of labels, or numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import compress
from typing import Any

import numpy as np

from t2t.decode import fetch, first_logits, label_set, mesh_of, place
from t2t.nn.model import Model
from t2t.train import task_metrics
from t2t.train.eval_examples import Source
from t2t.train.results import EvalResult
from t2t.train.task_metrics import Raw, text_of
from t2t.train.teacher_forcing import cropped
from t2t.types import Params


def evaluate_values(model: Model, params: Params, source: Source, before: Callable[[], None]) -> EvalResult:
    """Evaluate a task of labels or numbers of texts.

    The metrics are "loss" (of labels the mean binary cross-entropy in nats, of numbers the mean squared error), "exact_match" of sets of labels, and the task's.
    The task's metrics get a set of labels as a list of names, a single number as a float, and several numbers as a list.

    before: called before each batch.
    """
    raws: list[Raw] = []
    scores: list[np.ndarray] = []
    read = source.read()
    for batch, some in read:
        before()
        found = fetch(first_logits(model, params, place(cropped(batch), mesh_of(params))))
        scores += list(np.asarray(found, np.float64)[: len(some)])
        raws += some
    known = [bool(np.asarray(raw["weights"])[0] > 0) for raw in raws]
    source.warn_of_examples(read, known)
    wanted = [np.asarray(raw["values"], np.float64) for raw in raws]
    rows = (_label_rows if model.config.output == "labels" else _number_rows)(model.config.labels, scores, wanted)
    metrics: dict[str, float] = {}
    if any(known):
        judged = list(compress(rows, known))
        metrics["loss"] = float(np.mean(list(compress((row.pop("loss") for row in rows), known))))
        if "correct" in judged[0]:
            metrics["exact_match"] = float(np.mean([row["correct"] for row in judged]))
        targets, predictions = ([row[name] for row in judged] for name in ("targets", "prediction"))
        some = list(compress(raws, known))
        # These predictions have no likelihoods.
        metrics |= task_metrics.of_predictions(source.task, some, targets, predictions, [0.0] * len(some))
    hidden = ("loss", "targets", "correct")
    return EvalResult(
        task=source.data.task,
        split=source.data.split,
        examples=len(raws),
        unanswered=len(known) - sum(known),
        trimmed=read.trimmed,
        metrics=metrics,
        predictions=[
            {**_texts(raw), **(row if answered else {name: row[name] for name in row if name not in hidden})}
            for raw, row, answered in zip(raws, rows, known, strict=True)
        ],
    )


def _label_rows(
    labels: Sequence[str], scores: Sequence[np.ndarray], wanted: Sequence[np.ndarray]
) -> list[dict[str, Any]]:
    """Return for each text its labels, the predicted ones with the probabilities of all, whether both are the same, and the loss."""
    rows = []
    for logits, flags in zip(scores, wanted, strict=True):
        found = label_set(labels, logits)
        right = [label for label, flag in zip(labels, flags, strict=True) if flag > 0.5]
        rows.append(
            {
                "targets": right,
                "prediction": found.texts,
                "probabilities": dict(zip(labels, found.probabilities, strict=True)),
                "correct": found.texts == right,
                "loss": float(np.mean(np.logaddexp(0.0, logits) - flags * logits)),
            }
        )
    return rows


def _number_rows(
    labels: Sequence[str], scores: Sequence[np.ndarray], wanted: Sequence[np.ndarray]
) -> list[dict[str, Any]]:
    """Return for each text its number or list of numbers, the predicted ones, and the loss."""

    def shown(values: np.ndarray) -> float | list[float]:
        return float(values[0]) if len(values) == 1 else values.tolist()

    return [
        {"targets": shown(right), "prediction": shown(found), "loss": float(np.mean(np.square(found - right)))}
        for found, right in zip(scores, wanted, strict=True)
    ]


def _texts(raw: Raw) -> dict[str, str]:
    return {
        key: text_of(raw[name])
        for key, name in (("inputs", "inputs_pretokenized"), ("second", "second"))
        if name in raw
    }
