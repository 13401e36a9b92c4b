"""Call the metric functions of a SeqIO task on predictions and scores.

Examples with a field `choices`, the answers to choose from, support rank classification. The correct answers are the texts of the field
`answers` if there is one, else the text of the target.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from t2t.errors import UserError
from t2t.train.sampled_answers import of_several

if TYPE_CHECKING:
    import seqio

Raw = Mapping[str, Any]
_log = logging.getLogger(__name__)


def text_of(value: Any) -> str:
    """Return a text that may be bytes of TensorFlow."""
    if isinstance(value, np.ndarray):
        value = value.item()
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)


def hidden(raw: Raw) -> bool:
    """Return whether the answer of an example is hidden, as in most public test splits: it has no metrics."""
    from t2t.data.answers import HIDDEN  # loads TensorFlow

    if text_of(raw.get("targets_pretokenized", "")) != HIDDEN:
        return False
    return all(text_of(choice) != HIDDEN for choice in raw.get("choices", ()))


def predicts(task: seqio.Task) -> bool:
    """Return whether a metric of the task needs generated texts."""
    return bool(task.predict_metric_fns or task.predict_with_aux_metric_fns)


def of_predictions(
    task: seqio.Task, raws: Sequence[Raw], targets: Sequence[Any], predictions: Sequence[Any], scores: Sequence[float]
) -> dict[str, float]:
    """Return the task's metrics of generated texts, or of sets of labels or numbers. scores: the auxiliary values of the predictions."""
    if not predicts(task):
        return {}
    wanted = _targets(task, raws, targets)
    predicted = [
        task.postprocess_fn(text, example=raw, is_target=False) for text, raw in zip(predictions, raws, strict=True)
    ]
    found: dict[str, float] = {}
    for function in task.predict_metric_fns:
        found |= _values(task, function, function(targets=wanted, predictions=predicted))
    for function in task.predict_with_aux_metric_fns:
        aux = {"scores": list(scores)}
        found |= _values(task, function, function(targets=wanted, predictions=predicted, aux_values=aux))
    return found


def of_samples(
    task: seqio.Task, raws: Sequence[Raw], targets: Sequence[Any], samples: Sequence[Sequence[str]]
) -> tuple[dict[str, float], list[list[bool]]]:
    """Return "pass@k" and "majority@N" of several sampled texts for each example, and whether each text is right."""
    predicted = [
        [task.postprocess_fn(text, example=raw, is_target=False) for text in some]
        for some, raw in zip(samples, raws, strict=True)
    ]
    return of_several(task.predict_metric_fns, _targets(task, raws, targets), predicted)


def of_scores(
    task: seqio.Task, raws: Sequence[Raw], targets: Sequence[str], scores: Sequence[float]
) -> dict[str, float]:
    """Return the task's metrics of scores, the log-likelihoods of the targets. `of_choices` has the metrics of choices."""
    functions = [function for function in task.score_metric_fns if not _of_choices(function)]
    if len(functions) < len(task.score_metric_fns) and choices(raws) is None:
        raise UserError(f"task {task.name!r} has the metric rank_classification, but no field 'choices'.")
    found: dict[str, float] = {}
    if functions:
        wanted = _targets(task, raws, targets)
        for function in functions:
            found |= _values(task, function, function(targets=wanted, scores=list(scores)))
    return found


def choices(raws: Sequence[Raw]) -> list[list[str]] | None:
    """Return the choices of each example; None if the task has none.

    Raises UserError if some examples have choices and others do not.
    """
    found = [[text_of(choice) for choice in raw["choices"]] if "choices" in raw else [] for raw in raws]
    if not any(found):
        return None
    if not all(found):
        raise UserError(f"example {found.index([]) + 1} has no choices to rank, but other examples have.")
    return found


def of_choices(
    task: seqio.Task,
    raws: Sequence[Raw],
    targets: Sequence[str],
    choices: Sequence[Sequence[str]],
    scores: Sequence[Sequence[float]],
) -> dict[str, float]:
    """Return "rank_accuracy": the fraction of examples whose most likely choice (the first of equal ones) is correct.

    Also call the task's metric functions named rank_classification, with the indices of the correct choices and the scores of all choices.
    """
    right = right_choices(raws, targets, choices)
    found = {"rank_accuracy": rank_accuracy(scores, right)}
    for function in task.score_metric_fns:
        if _of_choices(function):
            found |= _values(task, function, function(targets=[r or [-1] for r in right], scores=list(scores)))
    return found


def right_choices(raws: Sequence[Raw], targets: Sequence[str], choices: Sequence[Sequence[str]]) -> list[list[int]]:
    """Return the indices of the correct choices of each example."""
    right = []
    for raw, target, some in zip(raws, targets, choices, strict=True):
        answers = {text_of(answer) for answer in raw["answers"]} if "answers" in raw else {target}
        right.append([i for i, choice in enumerate(some) if choice in answers])
    return right


def rank_accuracy(scores: Sequence[Any], right: Sequence[Sequence[int]]) -> float:
    """Return the fraction of examples whose best choice (the first of equal ones) is correct."""
    return float(np.mean([int(np.argmax(s)) in r for s, r in zip(scores, right, strict=True)]))


def _of_choices(function: Callable[..., Any]) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", "") == "rank_classification"


def _targets(task: seqio.Task, raws: Sequence[Raw], targets: Sequence[Any]) -> list[Any]:
    return [task.postprocess_fn(text, example=raw, is_target=True) for text, raw in zip(targets, raws, strict=True)]


def _values(task: seqio.Task, function: Callable[..., Any], returned: Mapping[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in returned.items():
        value = getattr(value, "value", value)  # seqio.metrics.Scalar
        try:
            found[name] = float(value)
        except (TypeError, ValueError):
            _log.warning(
                "task %r: metric %r of %r is %s, not a number; skipped",
                task.name,
                name,
                getattr(function, "__name__", function),
                type(value).__name__,
            )
    return found
