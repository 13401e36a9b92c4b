"""Evaluate parameters on held-out tasks: teacher-forced loss, the metrics of the tasks, and predictions.

Every process of a multi-host run must call `Evaluator.evaluate` at the same step. All processes read the same examples, each computes the
part of its devices, and all get the same results. `write` writes only on process 0.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Any

import jax
import numpy as np

from t2t.checkpoint import CheckpointConfig
from t2t.data.config import Data
from t2t.decode import Decoding, Greedy, Sampling, generate_many, target_text, words_between
from t2t.errors import UserError
from t2t.limits import Configuration, CountOrZero, Generated, Rows
from t2t.nn.capabilities import VALUES
from t2t.nn.model import Model, ModelConfig
from t2t.objectives import Objective
from t2t.objectives.objective import Teacher
from t2t.train import task_metrics
from t2t.train.eval_examples import Examples, Source, predicted_text, source_of, text_in
from t2t.train.few_shot import FewShot, Prompter
from t2t.train.metric_names import check_best_metric
from t2t.train.ranking import Scorer, rank
from t2t.train.results import EvalResult, merged, summary, write
from t2t.train.task_metrics import Raw, text_of
from t2t.train.teacher_forcing import EvaluatedObjective, TeacherForced
from t2t.train.values import evaluate_values
from t2t.train.vectors import evaluate_vectors
from t2t.types import Batch, Params
from t2t.vocabularies import Vocabulary

__all__ = ["EvalResult", "Evaluation", "Evaluator", "Interrupted", "evaluate", "summary", "write"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Evaluation(Configuration):
    """What to evaluate, and when.

    Args:
        tasks: names of tasks or mixtures. The tasks of a mixture are evaluated one by one. Empty evaluates the training task.
        split: split of each task. None disables evaluation.
        examples: number of examples of each task, from the start of the split. 0 or None uses all.
        batch_size: rows per batch.
        every: training steps between two evaluations. 0 evaluates only at the end.
        decoding: how to generate the predictions for the metrics. With several samples, "pass@k" and "majority@N" are reported too, and the task's own metrics are those
            of the first sample.
        length: maximum number of tokens to generate. None uses the data's targets_length.
        samples: number of predictions to generate for inspection if no metric needs predictions.
        few_shot: examples to show before each query, and calibrated scores of choices.
    """

    tasks: tuple[str, ...] = ()
    split: str | None = "validation"
    examples: CountOrZero | None = 1000
    batch_size: Rows = 32
    every: CountOrZero = 1000
    decoding: Decoding = field(default_factory=Greedy)
    length: Generated | None = None
    samples: CountOrZero = 8
    few_shot: FewShot = field(default_factory=FewShot)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.examples == 0:
            object.__setattr__(self, "examples", None)

    def due(self, step: int, *, last: bool) -> bool:
        """Return whether to evaluate after `step` steps. last: whether it is the last step of the run."""
        return self.split is not None and (last or (self.every > 0 and step % self.every == 0))


def evaluate(model: Model, params: Params, evaluation: Evaluation, data: Data) -> list[EvalResult]:
    """Evaluate once. A run uses one `Evaluator` instead, so that nothing is compiled or read twice."""
    return Evaluator(model, evaluation, data).evaluate(params)


class Interrupted(Exception):
    """An evaluation was stopped on request."""


class Evaluator:
    """Evaluates parameters, any number of times, on the same examples.

    data:      the data of the training run. Its lengths, vocabulary and seed apply to every evaluated task. The loss covers only targets.
    objective: the objective of the training run. It is reported too if it is `evaluated`.

    Loads TensorFlow. The constructor raises UserError for an unknown task or split, and for a task that does not fit this kind of model.
    """

    def __init__(self, model: Model, evaluation: Evaluation, data: Data, objective: Objective | None = None) -> None:
        # Platform-specific kernels are for training. Evaluation does not shard by hand, and its rows may have any length.
        portable = model.config.portable()
        model = model if portable is model.config else model.rebuilt(portable)
        self._model, self._evaluation = model, evaluation
        self._stop: Callable[[], bool] = lambda: False
        self._teacher: Teacher | None = None
        self._sources: list[Source] = []
        if evaluation.split is None:
            return
        few_shot = evaluation.few_shot
        if not model.config.can("generate") and (few_shot.prompted or few_shot.calibrations):
            raise UserError(
                f"an encoder fills in masks; it supports neither few-shot examples nor calibration of choices (--shots {few_shot.shots})."
                " Nearest: a decoder or an encoder-decoder, or --shots 0."
            )
        from t2t.data.pipeline import task_names, task_vocabulary  # loads TensorFlow

        self._vocabulary = task_vocabulary(data)
        names = dict.fromkeys(task for name in evaluation.tasks or (data.task,) for task in task_names(name))
        base = replace(
            data, split=evaluation.split, seed=data.seed or 0, pack=False, loss_on_inputs=0.0, shuffle_buffer=0
        )
        for name in names:
            source = source_of(
                model,
                replace(base, task=name),
                self._vocabulary,
                named=name in (evaluation.tasks or (data.task,)),
                batch_size=evaluation.batch_size,
                examples=evaluation.examples,
                few_shot=few_shot,
                objective=objective if objective is not None and objective.evaluated else None,
            )
            if source is not None:
                self._sources.append(source)
        if not self._sources:
            raise UserError(
                f"none of {', '.join(names)} (--evaluation.tasks) has a split {evaluation.split!r} (--evaluation.split)."
            )

    def evaluate(
        self, params: Params, stop: Callable[[], bool] = lambda: False, teacher: Teacher | None = None
    ) -> list[EvalResult]:
        """Return one result per task. Parameters may have any sharding.

        stop: called before each batch, on all processes. If it returns True, the evaluation raises Interrupted.
        teacher: the model that the objective reads, with its parameters. Without it, an objective that needs it is not evaluated.
        """
        self._stop, self._teacher = stop, teacher
        found = []
        for source in self._sources:
            prompters = source.prompters()
            if prompters:
                found.append(merged([self._once(params, source, prompter) for prompter in prompters]))
        if not found:
            self._raise_not_prompted()
        return found

    def check(self, checkpoint: CheckpointConfig | None = None) -> None:
        """Raise UserError now if an evaluation would raise it later, so that no training is lost.

        Reads the examples of few-shot evaluations and writes their prompts. Other evaluations read nothing here.

        checkpoint: an evaluation must have its `best_metric`.
        """
        few_shot = self._evaluation.few_shot
        if few_shot.prompted or few_shot.calibrations:
            prompted = False
            for source in self._sources:
                for prompter in source.prompters():
                    prompted = True
                    source.read(prompter)
            if not prompted:
                self._raise_not_prompted()
        if checkpoint is not None:
            vocabulary = self._vocabulary if self._sources else None
            check_best_metric(checkpoint, self._sources, self._model.config, vocabulary, few_shot)

    def _raise_not_prompted(self) -> None:
        if self._sources:
            names = ", ".join(source.data.task for source in self._sources)
            raise UserError(
                f"none of {names} (--evaluation.tasks) has text inputs before which examples could be shown (--shots)."
            )

    def _evaluated(self, source: Source) -> EvaluatedObjective | None:
        """Return the sums of the objective; None if it is not evaluated."""
        if source.objective is None:
            return None
        if source.objective.teacher_run is not None and self._teacher is None:
            source.warn_of_reference()
            return None
        return EvaluatedObjective(source.objective, self._teacher)

    def _before_batch(self) -> None:
        if self._stop():
            raise Interrupted

    def _once(self, params: Params, source: Source, prompter: Prompter | None) -> EvalResult:
        """Evaluate one task with the examples of one seed, or without prompts."""
        if source.compares_texts:
            return evaluate_vectors(self._model, params, source, self._before_batch)
        if self._model.config.output in VALUES:
            return evaluate_values(self._model, params, source, self._before_batch)
        forced = TeacherForced()
        objective = None if prompter is not None else self._evaluated(source)
        own_rows = source.objective is not None and source.objective.own_rows
        raws: list[Raw] = []
        read = source.read(prompter)
        for batch, some in read:
            self._before_batch()
            batch = _without(batch, [task_metrics.hidden(raw) for raw in some])
            forced.add(self._model, params, batch, len(some))
            if objective is not None and not own_rows:
                objective.add(self._model, params, batch)
            raws += some
        if objective is not None and own_rows:
            for batch in source.own_rows():
                self._before_batch()
                objective.add(self._model, params, batch)
        generates = self._model.config.can("generate")
        # An encoder has nothing to predict at positions without weight.
        known = [
            not task_metrics.hidden(raw) if generates else bool(ids)
            for raw, ids in zip(raws, forced.wanted, strict=True)
        ]
        source.warn_of_examples(read, known)
        source.warn_of_lost_targets(raws)
        metrics = forced.metrics() | ({} if objective is None else objective.metrics())
        if generates:
            predictions, found = self._generate(params, source, read, prompter, raws, forced, known)
        else:
            predictions, found = self._fill(params, source, read, raws, forced, known)
        if prompter is not None and self._evaluation.few_shot.prompted:
            found["shots"] = float(np.mean([raw["shots"] for raw in raws]))
            for row in predictions:
                row["seed"] = prompter.seed
        return EvalResult(
            task=source.data.task,
            split=source.data.split,
            examples=len(raws),
            unanswered=len(known) - sum(known),
            trimmed=read.trimmed,
            metrics={**metrics, **found},
            predictions=predictions,
        )

    def _fill(
        self,
        params: Params,
        source: Source,
        read: Examples,
        raws: list[Raw],
        forced: TeacherForced,
        known: Sequence[bool],
    ) -> tuple[list[dict[str, Any]], dict[str, float]]:
        """Return the predictions and metrics of an encoder: it predicts the tokens at the target positions."""
        config, vocabulary = self._model.config, self._vocabulary
        rows: list[dict[str, Any]] = []
        for raw, wanted, predicted, first_id, answered in zip(
            raws, forced.wanted, forced.predicted, forced.first, known, strict=True
        ):
            inputs = raw.get("inputs_pretokenized")
            predicted = predicted or [first_id] * (
                config.can("classify")
            )  # predict a label even if the answer is unknown
            rows.append(
                {
                    "inputs": vocabulary.decode(raw["inputs"]) if inputs is None else text_of(inputs),
                    **({"second": text_of(raw["second"])} if "second" in raw else {}),
                    **({"targets": _target_text(config, vocabulary, raw, wanted)} if answered else {}),
                    "prediction": _target_text(config, vocabulary, raw, predicted) if predicted else "",
                    **({"correct": wanted == predicted} if answered else {}),
                }
            )
        judged = [row for row in rows if "correct" in row]
        some, scores = list(compress(raws, known)), list(compress(forced.scores, known))
        targets = [row["targets"] for row in judged]
        found: dict[str, float] = {}
        if judged:
            found["exact_match"] = float(np.mean([row["correct"] for row in judged]))
            found |= task_metrics.of_predictions(
                source.task, some, targets, [row["prediction"] for row in judged], scores
            )
            found |= task_metrics.of_scores(source.task, some, targets, scores)
        if config.can("fill_mask") and any("choices" in raw for raw in raws):
            fitted = [read.fit(raw) for raw in raws]
            # The question is everything before the first position to predict.
            asked = [example["inputs"][: int(np.argmax(example["weights"] > 0))].tolist() for example in fitted]
            wanted_texts = [text_in(raw, "targets", vocabulary) for raw in raws]
            found |= rank(self._scorer(params, source), source.task, raws, asked, wanted_texts, rows, known)
        return rows, found

    def _is_language_modelling(self, source: Source, forced: TeacherForced) -> bool:
        """Return whether the targets are plain text: no metric compares them with predictions, and they have no sentinels."""
        first = self._vocabulary.size - self._vocabulary.extra_ids
        return (
            self._model.config.can("continue_text")
            and not task_metrics.predicts(source.task)
            and all(max(ids, default=0) < first for ids in forced.wanted)
        )

    def _scorer(self, params: Params, source: Source) -> Scorer:
        return Scorer(
            self._model,
            params,
            self._vocabulary,
            batch_size=self._evaluation.batch_size,
            task=source.data.task,
            before=self._before_batch,
        )

    def _generate(
        self,
        params: Params,
        source: Source,
        read: Examples,
        prompter: Prompter | None,
        raws: list[Raw],
        forced: TeacherForced,
        known: Sequence[bool],
    ) -> tuple[list[dict[str, Any]], dict[str, float]]:
        vocabulary, evaluation = self._vocabulary, self._evaluation
        fitted = [read.fit(raw) for raw in raws]
        inputs = [example["inputs"].tolist() if "inputs" in example else [] for example in fitted]
        targets = [text_in(raw, "targets", vocabulary) for raw in raws]
        some, right = list(compress(raws, known)), list(compress(targets, known))
        found = task_metrics.of_scores(source.task, some, right, list(compress(forced.scores, known))) if some else {}
        rows: list[dict[str, Any]] = [{} for _ in raws]
        if self._is_language_modelling(source, forced):
            spelled = [predicted_text(*pair, vocabulary) for pair in zip(raws, forced.wanted, strict=True)]
            found = {"bits_per_byte": forced.bits_per_byte(spelled), **found}

        if task_metrics.predicts(source.task):
            wanted = raws
        else:  # the text of a language model answers no question, so there is nothing to predict
            wanted = raws[: evaluation.samples] if "inputs" in fitted[0] else []
        outputs = generate_many(
            self._model,
            params,
            inputs[: len(wanted)],
            evaluation.decoding,
            length=evaluation.length or source.data.targets_length,
            eos_id=vocabulary.end_ids,
            bos_id=read.start_id,
            forced_id=vocabulary.forced,
            batch_size=evaluation.batch_size,
            key=jax.random.key(source.data.seed or 0),
            vocab_size=vocabulary.size,
            pad_id=vocabulary.pad_id,
            before=self._before_batch,
        )
        generated = [vocabulary.decode_generated(best[0].ids) for best in outputs]
        if prompter is not None:
            generated = [prompter.answer(text) for text in generated]
        scores = [best[0].score for best in outputs]
        if (
            some
            and isinstance(evaluation.decoding, Sampling)
            and evaluation.decoding.samples > 1
            and task_metrics.predicts(source.task)
        ):
            answers = [[vocabulary.decode_generated(one.ids) for one in several] for several in outputs]
            if prompter is not None:
                answers = [[prompter.answer(text) for text in several] for several in answers]
            sampled, judged = task_metrics.of_samples(source.task, some, right, list(compress(answers, known)))
            found |= sampled
            for row, own, marks in zip(compress(rows, known), compress(answers, known), judged, strict=True):
                row |= {"answers": own, "answers_right": marks}
        for row, target, text, score, answered in zip(rows, targets, generated, scores, known, strict=False):
            row |= {"prediction": text, "score": score, **({"correct": text == target} if answered else {})}
        if some and task_metrics.predicts(source.task):
            texts, scores = list(compress(generated, known)), list(compress(scores, known))
            found |= task_metrics.of_predictions(source.task, some, right, texts, scores)

        found |= rank(
            self._scorer(params, source),
            source.task,
            raws,
            inputs,
            targets,
            rows,
            known,
            prompter=prompter,
            calibrations=evaluation.few_shot.calibrations,
        )
        for row, raw, target, answered in zip(rows, raws, targets, known, strict=True):
            if row:
                row |= {"inputs": text_in(raw, "inputs", vocabulary), **({"targets": target} if answered else {})}
                row |= {"prompt": raw["prompt"]} if "prompt" in raw else {}
        return [row for row in rows if row], found


def _without(batch: Batch, hidden: Sequence[bool]) -> Batch:
    """Return the batch with weight 0 for the rows whose answer is unknown."""
    if not any(hidden):
        return batch
    weights = np.array(batch.weights)
    weights[np.flatnonzero(hidden)] = 0
    return replace(batch, weights=weights)


def _target_text(config: ModelConfig, vocabulary: Vocabulary, raw: Raw, ids: Sequence[int]) -> str:
    """Return the text of an encoder's predicted ids. The text of a span is taken from the example."""
    if config.can("find_span") and "word_starts" in raw:
        return words_between(text_of(raw["second"]), np.asarray(raw["word_starts"]).tolist(), *ids)[0]
    return target_text(config, vocabulary, raw["inputs"], ids)
