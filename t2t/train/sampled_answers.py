"""Metrics of several sampled answers to each query: pass@k and the majority vote.

A metric function judges single answers if it has the attribute `judges`: of one target and one prediction, it returns 0 for a wrong answer and more for a right one.
Its attribute `answer` is the function from a prediction to what is voted on; without it, the whole prediction is.
"""

from __future__ import annotations

import collections
import functools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from t2t.errors import UserError


def judge_of(functions: Sequence[Callable[..., Any]]) -> Callable[..., Any] | None:
    """Return the first metric function that judges single answers, or None."""
    return next((function for function in functions if getattr(_plain(function), "judges", False)), None)


def is_right(judge: Callable[..., Any] | None, target: Any, prediction: Any) -> bool:
    """Return whether a prediction is right. judge: see `judge_of`; None compares it with the target."""
    if judge is None:
        return bool(target == prediction)
    return max(judge(targets=[target], predictions=[prediction]).values()) > 0


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Return the unbiased estimate that one of k answers is right, from `samples` answers of which `right` are (Chen et al. 2021, arXiv:2107.03374, eq. 1).

    Raises UserError if k is more than the number of samples.
    """
    if not 1 <= k <= samples:
        raise UserError(f"pass@{k}: k is not between 1 and the {samples} samples. Nearest: {min(max(k, 1), samples)}.")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def majority(judge: Callable[..., Any] | None, predictions: Sequence[Any]) -> int:
    """Return the index of the first prediction with the most frequent answer; of equally frequent ones, the first (Wang et al. 2022, arXiv:2203.11171).

    Predictions without an answer (`answer` returns None) have no vote, unless there are only such.
    """
    key = getattr(_plain(judge), "answer", lambda prediction: prediction)
    answers: list[Hashable] = [key(prediction) for prediction in predictions]
    votes = collections.Counter(answer for answer in answers if answer is not None)
    return answers.index(votes.most_common(1)[0][0]) if votes else 0


def of_several(
    functions: Sequence[Callable[..., Any]], targets: Sequence[Any], predictions: Sequence[Sequence[Any]]
) -> tuple[dict[str, float], list[list[bool]]]:
    """Return "pass@k" for k = 1, 2, 4, ... and N, and "majority@N", as means over the queries; and whether each prediction is right.

    functions: the metric functions of a task.
    targets: the target of each query. predictions: its N predictions.
    """
    judge = judge_of(functions)
    right = [[is_right(judge, target, one) for one in some] for target, some in zip(targets, predictions, strict=True)]
    count = len(predictions[0])
    ks = sorted({2**power for power in range(count.bit_length())} | {count})
    found = {f"pass@{k}": sum(pass_at_k(count, sum(own), k) for own in right) / len(right) for k in ks if k <= count}
    voted = [own[majority(judge, some)] for own, some in zip(right, predictions, strict=True)]
    return {**found, f"majority@{count}": sum(voted) / len(voted)}, right


def _plain(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return function
