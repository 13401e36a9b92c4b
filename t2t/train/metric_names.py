"""Which metrics an evaluation has, known before there is one: the best checkpoint is chosen by one of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from t2t.checkpoint import CheckpointConfig
from t2t.errors import UserError, nearest
from t2t.nn.model import ModelConfig
from t2t.train import task_metrics
from t2t.train.eval_examples import Source, text_in
from t2t.train.few_shot import FewShot
from t2t.train.task_metrics import Raw
from t2t.vocabularies import Vocabulary

if TYPE_CHECKING:
    import seqio

MEAN_LOSS = "eval/loss"
_ALWAYS = ("loss", "perplexity", "token_accuracy", "unigram_loss")
_TRIED = 8
"""Examples that a task's metric functions are tried on to learn what they return."""


def check_best_metric(
    checkpoint: CheckpointConfig,
    sources: Sequence[Source],
    config: ModelConfig,
    vocabulary: Vocabulary | None,
    few_shot: FewShot,
) -> None:
    """Refuse a `best_metric` that no evaluation will have. Raises UserError, with the nearest that one will.

    sources: the tasks evaluated; none where there is no evaluation.
    """
    wanted = checkpoint.best_metric
    if wanted == MEAN_LOSS or not checkpoint.keep_best:
        return
    said = f"best_metric {wanted!r} (--checkpoint.best-metric)"
    if not sources or vocabulary is None:
        raise UserError(f"{said}: nothing is evaluated (--evaluation.split None). Nearest: --checkpoint.keep-best 0.")
    known = [MEAN_LOSS]
    for source in sources:
        names, all_told = metric_names(source, config, vocabulary, few_shot)
        known += [f"eval/{source.data.task}/{name}" for name in names]
        if wanted in known or (not all_told and wanted.startswith(f"eval/{source.data.task}/")):
            return
    raise UserError(f"{said}: no evaluation of this run has that metric.{_nearest(wanted, known)}")


def metric_names(
    source: Source, config: ModelConfig, vocabulary: Vocabulary, few_shot: FewShot
) -> tuple[list[str], bool]:
    """Return the names of the metrics that a task's evaluation has, and whether these are certainly all.

    What an objective reports is known only when it is computed. What a metric function returns is known only when it is called: it is given a few examples, with their own targets as predictions.
    """
    names = [
        *_ALWAYS,
        *(["exact_match"] if not config.can("generate") else []),
        *(["shots"] if few_shot.prompted else []),
        *(["objective"] if source.objective is not None else []),
    ]
    raws = source.first(_TRIED)
    try:
        return [*names, *_of_task(source.task, raws, vocabulary, few_shot)], source.objective is None
    except Exception:  # whatever a user's function makes of so few examples: the evaluation itself tells of it
        return names, False


def _of_task(task: seqio.Task, raws: Sequence[Raw], vocabulary: Vocabulary, few_shot: FewShot) -> Iterable[str]:
    targets = [text_in(raw, "targets", vocabulary) for raw in raws]
    scores = [-1.0] * len(raws)
    found = {
        **task_metrics.of_predictions(task, raws, targets, targets, scores),
        **task_metrics.of_scores(task, raws, targets, scores),
    }
    choices = task_metrics.choices(raws)
    if choices is not None:
        found |= task_metrics.of_choices(task, raws, targets, choices, [[-1.0] * len(some) for some in choices])
        found |= {f"rank_accuracy_{name}": 0.0 for name in few_shot.calibrations}
    return found


def _nearest(wanted: str, known: Sequence[str]) -> str:
    same_end = [name for name in known if name.rpartition("/")[2] == wanted.rpartition("/")[2]]
    return nearest(wanted, same_end or known)
