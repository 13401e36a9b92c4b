"""Find the names of an evaluation's metrics before the first evaluation, to check the metric of the best checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from t2t.checkpoint import CheckpointConfig
from t2t.errors import UserError, nearest
from t2t.nn.capabilities import VALUES
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
RETRIEVAL = ("retrieval_accuracy", "mrr")
_TRIED = 8
"""Number of examples on which a task's metric functions are called to find the names that they return."""


def check_best_metric(
    checkpoint: CheckpointConfig,
    sources: Sequence[Source],
    config: ModelConfig,
    vocabulary: Vocabulary | None,
    few_shot: FewShot,
) -> None:
    """Raise UserError, with the nearest metric, if no evaluation will have `best_metric`.

    sources: the evaluated tasks; empty if there is no evaluation.
    """
    wanted = checkpoint.best_metric
    if wanted == MEAN_LOSS or not checkpoint.keep_best:
        return
    option = f"best_metric {wanted!r} (--checkpoint.best-metric)"
    if not sources or vocabulary is None:
        raise UserError(f"{option}: nothing is evaluated (--evaluation.split None). Nearest: --checkpoint.keep-best 0.")
    known = [MEAN_LOSS]
    for source in sources:
        names, complete = metric_names(source, config, vocabulary, few_shot)
        known += [f"eval/{source.data.task}/{name}" for name in names]
        if wanted in known or (not complete and wanted.startswith(f"eval/{source.data.task}/")):
            return
    raise UserError(f"{option}: no evaluation of this run has that metric.{_nearest(wanted, known)}")


def metric_names(
    source: Source, config: ModelConfig, vocabulary: Vocabulary, few_shot: FewShot
) -> tuple[list[str], bool]:
    """Return the names of the metrics of a task's evaluation, and whether the list is certainly complete.

    To find the names that metric functions return, call them on a few examples with the targets as predictions. The metrics of an objective are
    unknown until it is computed.
    """
    similar = task_metrics.predicts(source.task)
    scored = source.objective is not None and not (source.compares_texts and similar)
    if source.compares_texts:
        always = ["loss"] if scored else []
    elif config.output in VALUES:
        always = ["loss", *(["exact_match"] if config.output == "labels" else [])]
    else:
        always = [*_ALWAYS, *(["exact_match"] if not config.can("generate") else [])]
    names = [
        *always,
        *(["shots"] if few_shot.prompted else []),
        *(["objective"] if scored else []),
    ]
    raws = source.first(_TRIED)
    if source.compares_texts and not similar:
        return [*names, *RETRIEVAL], not scored
    try:
        return [*names, *_of_task(source.task, raws, vocabulary, few_shot)], not scored
    except Exception:  # a user's function may fail on so few examples; the evaluation reports real errors
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
