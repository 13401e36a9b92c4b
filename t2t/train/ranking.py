"""Rank classification: find the most likely choice after the inputs (Brown et al. 2020, section 2.4), and calibrated scores of choices."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from t2t.decode import score_many
from t2t.nn.model import Model
from t2t.train import task_metrics
from t2t.train.few_shot import Calibration, Prompter
from t2t.train.task_metrics import Raw
from t2t.types import Params
from t2t.vocabularies import Vocabulary

if TYPE_CHECKING:
    import seqio

Ids = Sequence[int]


class Scorer:
    """Computes log-probabilities of answers after prompts, each pair once. before: called before each batch."""

    def __init__(
        self,
        model: Model,
        params: Params,
        vocabulary: Vocabulary,
        *,
        batch_size: int,
        task: str,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        self._model, self._params, self._vocabulary = model, params, vocabulary
        self._batch_size, self._task, self._before = batch_size, task, before

    def answer(self, choice: str) -> list[int]:
        """Return the ids of a choice, with EOS."""
        return [*self._vocabulary.of_targets.encode(choice), self._vocabulary.eos_id]

    def __call__(self, prompts: Sequence[Ids], choices: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Return, for each prompt, the log-probabilities in nats of its choices, float64 [choices]."""
        pairs = [
            (tuple(ids), tuple(self.answer(choice)))
            for ids, some in zip(prompts, choices, strict=True)
            for choice in some
        ]
        different = list(dict.fromkeys(pairs))
        scores = score_many(
            self._model,
            self._params,
            [before for before, _ in different],
            [after for _, after in different],
            bos_id=self._vocabulary.bos_id,
            mask_id=self._vocabulary.mask_id,
            batch_size=self._batch_size,
            name=lambda i: f"choice {i + 1} of task {self._task!r}",
            before=self._before,
        )
        known = dict(zip(different, scores, strict=True))
        found = iter([known[pair] for pair in pairs])
        return [np.array([next(found) for _ in some], np.float64) for some in choices]


def rank(
    scorer: Scorer,
    task: seqio.Task,
    raws: Sequence[Raw],
    inputs: Sequence[Ids],
    targets: Sequence[str],
    rows: Sequence[dict[str, Any]],
    known: Sequence[bool],
    *,
    prompter: Prompter | None = None,
    calibrations: Sequence[Calibration] = (),
) -> dict[str, float]:
    """Return "rank_accuracy" and one more metric for each calibration, as fractions; {} if the examples have no choices.

    inputs: the ids before the choices.
    rows:   the function adds "choice", "choice_scores" and one "choice_CALIBRATION" for each calibration.
    known:  whether the answer of each example is known. Metrics cover only these examples.
    """
    choices = task_metrics.choices(raws)
    if choices is None:
        return {}
    scores = scorer(inputs, choices)
    for row, offers, values in zip(rows, choices, scores, strict=True):
        row |= {
            "choice": offers[int(np.argmax(values))],
            "choice_scores": dict(zip(offers, values.tolist(), strict=True)),
        }
    some = list(itertools.compress(raws, known))
    answers = list(itertools.compress(targets, known))
    offered = list(itertools.compress(choices, known))
    found: dict[str, float] = {}
    if some:
        judged = [values.tolist() for values in itertools.compress(scores, known)]
        found |= task_metrics.of_choices(task, some, answers, offered, judged)
    right = task_metrics.right_choices(some, answers, offered)
    for name in calibrations:
        assert prompter is not None
        better = calibrated(name, scorer, prompter, raws, choices, scores)
        if right:
            found[f"rank_accuracy_{name}"] = task_metrics.rank_accuracy(list(itertools.compress(better, known)), right)
        for row, offers, values in zip(rows, choices, better, strict=True):
            row[f"choice_{name}"] = offers[int(np.argmax(values))]
    return found


def calibrated(
    name: Calibration,
    scorer: Scorer,
    prompter: Prompter,
    raws: Sequence[Mapping[str, Any]],
    choices: Sequence[Sequence[str]],
    scores: Sequence[np.ndarray],
) -> list[np.ndarray]:
    """Return the calibrated scores, see `FewShot.calibration`; float64 [choices] for each example."""
    if name == "length":
        return [
            values / [len(scorer.answer(choice)) for choice in some]
            for values, some in zip(scores, choices, strict=True)
        ]
    if name == "unconditional":
        alone = scorer([prompter.answer_context()] * len(choices), choices)
        return [values - prior for values, prior in zip(scores, alone, strict=True)]
    assert name == "contextual", name
    free = [prompter.content_free(task_metrics.text_of(raw["inputs_pretokenized"])) for raw in raws]
    flat = scorer(
        [ids for some in free for ids in some], [some for some, texts in zip(choices, free, strict=True) for _ in texts]
    )
    scored = iter(flat)
    out = []
    for values, texts in zip(scores, free, strict=True):
        priors = np.stack([_log_shares(next(scored)) for _ in texts])
        out.append(_log_shares(values) - (np.logaddexp.reduce(priors, axis=0) - np.log(len(texts))))
    return out


def _log_shares(scores: np.ndarray) -> np.ndarray:
    return scores - np.logaddexp.reduce(scores)
