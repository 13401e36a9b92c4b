"""The examples of an evaluation. They are read once. Few-shot evaluation rewrites their inputs as prompts."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from t2t.data.config import Data
from t2t.data.converters import FeatureConverter, unchanged
from t2t.errors import UserError, nearest
from t2t.nn.model import Model
from t2t.objectives import Objective
from t2t.train.few_shot import FewShot, Prompter, Shot
from t2t.train.task_metrics import Raw, text_of
from t2t.types import Batch
from t2t.vocabularies import Vocabulary

if TYPE_CHECKING:
    import seqio


_log = logging.getLogger(__name__)


class Examples:
    """One pass over batches and their raw examples."""

    def __init__(self, layout: FeatureConverter, batches: Iterator[tuple[Batch, list[Raw]]], counts: Any) -> None:
        self._layout, self._batches, self._counts = layout, batches, counts

    def __iter__(self) -> Iterator[tuple[Batch, list[Raw]]]:
        return self._batches

    @property
    def trimmed(self) -> int:
        """Number of the examples read so far that were truncated."""
        return int(self._counts.trimmed)

    @property
    def start_id(self) -> int | None:
        """The start token of a decoder before the inputs. None if the inputs begin with one."""
        return self._layout.start_id

    def fit(self, raw: Raw) -> dict[str, np.ndarray]:
        """Return the features truncated to the lengths of the data, as in the batches."""
        return dict(self._layout.fit({name: np.asarray(raw[name]) for name in self._layout.features})[0])


class Source:
    """The examples of one task. They are read once and kept if their number is limited."""

    def __init__(
        self,
        model: Model,
        data: Data,
        task: seqio.Task,
        vocabulary: Vocabulary,
        *,
        batch_size: int,
        examples: int | None,
        few_shot: FewShot,
        named: bool,
        objective: Objective | None,
    ) -> None:
        self.data, self.task, self.objective = data, task, objective
        self._config, self._vocabulary = model.config, vocabulary
        self._batch_size, self._examples, self._few_shot = batch_size, examples, few_shot
        self._kept: tuple[Any, list[tuple[Batch, list[Raw]]]] | None = None
        self._shots: list[Shot] | None = None
        self._named = named
        self._warned: set[str] = set()

    @property
    def compares_texts(self) -> bool:
        """Whether the task is of vectors of texts, so that nothing is predicted."""
        from t2t.data.answers import Texts

        return isinstance(self.task.output_features["targets"].vocabulary, Texts)

    def read(self, prompter: Prompter | None = None) -> Examples:
        """Return the examples. With a prompter for few-shot evaluation, their inputs are its prompts.

        Raw examples then have the prompt's ids as `inputs`, its text as `prompt` and the number of its examples as `shots`.
        Other features do not change.
        """
        found, batches = self._kept or self._read()
        if prompter is None or not self._few_shot.prompted:
            return Examples(found.layout, iter(batches), found.counts)
        return self._prompted(prompter, found.layout, batches)

    def first(self, count: int) -> list[Raw]:
        """Return the first `count` raw examples, or all if there are fewer."""
        _, batches = self._kept or self._read()
        return [raw for _, raws in itertools.islice(batches, count) for raw in raws][:count]

    def _read(self) -> tuple[Any, Any]:
        from t2t.data.pipeline import evaluation_batches

        # Every process reads the whole global batch, and `place` takes the part of its devices.
        convert = unchanged if self.objective is None or self.objective.own_rows else self.objective.converter
        found = evaluation_batches(
            self.data, self._config.kind, self._batch_size, examples=self._examples, convert=convert
        )
        if self._examples is None:
            return found, found
        self._kept = found, [(batch, list(raws)) for batch, raws in found]
        return self._kept

    def own_rows(self) -> Iterator[Batch]:
        """Return the batches of an objective that arranges rows in its own way."""
        from t2t.data.pipeline import evaluation_batches

        assert self.objective is not None, "the objective is evaluated"
        found = evaluation_batches(
            self.data, self._config.kind, self._batch_size, examples=self._examples, convert=self.objective.converter
        )
        return (batch for batch, _ in found)

    def _prompted(
        self, prompter: Prompter, layout: FeatureConverter, batches: Sequence[tuple[Batch, list[Raw]]]
    ) -> Examples:
        from t2t.data.shards import Counts

        counts = Counts()
        layout = replace(layout, inputs_length=prompter.room)

        def written(raw: Raw) -> Raw:
            prompt = prompter.prompt(text_of(raw["inputs_pretokenized"]))
            return {**raw, "inputs": np.array(prompt.ids, np.int32), "prompt": prompt.text, "shots": prompt.shots}

        # Report prompts that do not fit before anything is computed.
        raws = [[written(raw) for raw in some] for _, some in batches]
        prompter.check()

        def batched() -> Iterator[tuple[Batch, list[Raw]]]:
            for some in raws:
                fitted = [layout.fit({name: np.asarray(raw[name]) for name in layout.features}) for raw in some]
                counts.trimmed += sum(cut for _, cut in fitted)
                rows = [[example] for example, _ in fitted]
                yield layout.batch([*rows, *[[]] * (self._batch_size - len(rows))]), some

        return Examples(layout, batched(), counts)

    def prompters(self) -> list[Prompter | None]:
        """Return one prompter per seed, or [None] if queries do not change and nothing is calibrated.

        Return [], with a warning, for a task of a mixture whose inputs have no text. Raises UserError if that task itself was named, or if the
        split to draw examples from is missing.
        """
        few_shot = self._few_shot
        if not few_shot.prompted and not few_shot.calibrations:
            return [None]
        _, batches = self._kept or self._read()
        raws = [raw for _, some in batches for raw in some]
        if not few_shot.prompted and not any("choices" in raw for raw in raws):
            self._warn(f"task {self.data.task!r} has no choices to calibrate (--calibration)")
            return [None]
        if any("inputs_pretokenized" not in raw for raw in raws) or "inputs" not in self.task.output_features:
            message = (
                f"task {self.data.task!r} has no text of its inputs (inputs_pretokenized), so examples cannot be shown before them (--shots)."
                " Nearest: a supervised task."
            )
            if self._named:
                raise UserError(message)
            self._warn(f"not evaluated: {message}")
            return []
        pool = self._pool() if few_shot.shots else []
        return [
            Prompter(
                few_shot,
                few_shot.seed + number,
                task=self.data.task,
                vocabulary=self._vocabulary,
                shared=self._config.can("continue_text"),
                room=few_shot.length or self.data.inputs_length,
                eos=self.task.output_features["inputs"].add_eos,
                pool=pool,
                inputs=[text_of(raw["inputs_pretokenized"]) for raw in raws],
            )
            for number in range(few_shot.seeds if few_shot.shots else 1)  # without shots nothing is drawn
        ]

    def _pool(self) -> list[Shot]:
        if self._shots is None:
            split = self._few_shot.split
            if split not in self.task.splits:
                splits = list(map(str, self.task.splits))
                raise UserError(
                    f"task {self.data.task!r} has no split {split!r} to draw examples from (--evaluation.few-shot.split).{nearest(split, splits)}"
                )
            from t2t.data.pipeline import evaluation_batches

            read = evaluation_batches(
                replace(self.data, split=split), self._config.kind, self._batch_size, examples=self._few_shot.pool
            )
            self._shots = [
                Shot(text_of(raw["inputs_pretokenized"]), text_in(raw, "targets", self._vocabulary))
                for _, some in read
                for raw in some
            ]
        return self._shots

    def warn_of_examples(self, read: Examples, known: Sequence[bool]) -> None:
        """Warn, once, about examples that were truncated and about examples without a known answer."""
        count, unknown = len(known), len(known) - sum(known)
        if unknown == count:
            self._warn(
                f"task {self.data.task}: none of the {count} examples of split {self.data.split!r} has a known answer: they have predictions but no metrics"
            )
        elif unknown:
            self._warn(
                f"task {self.data.task}: {unknown} of {count} examples have no known answer and are not in the metrics"
            )
        if read.trimmed:
            self._warn(
                f"task {self.data.task}: {read.trimmed} of {count} examples are longer than the data's lengths and were truncated"
            )

    def warn_of_lost_targets(self, raws: Sequence[Raw]) -> None:
        """Warn, once, if a metric compares predictions with targets that change when the vocabulary encodes and decodes them."""
        from t2t.data.survival import compares, lost

        if not self._config.can("generate") or not compares(self.task):
            return
        texts = [text_of(raw["targets_pretokenized"]) for raw in raws if "targets_pretokenized" in raw]
        if found := lost(texts, self._vocabulary):
            self._warn(found.message(self.data.task))

    def warn_of_reference(self) -> None:
        """Warn that the objective is not evaluated, because the model that it compares with is not loaded."""
        self._warn(
            "the objective is not evaluated, because it compares with another model, which is loaded only in training"
        )

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            _log.warning("%s", message)


def source_of(
    model: Model,
    data: Data,
    vocabulary: Vocabulary,
    *,
    named: bool,
    batch_size: int,
    examples: int | None,
    few_shot: FewShot,
    objective: Objective | None = None,
) -> Source | None:
    """Return the source of a task's examples; None, with a warning, for a task of a mixture that does not have the split.

    named:     whether the task itself was named, not its mixture.
    objective: evaluated too if the task has the features that it needs.
    """
    from t2t.data.answers import check_model
    from t2t.data.registry import converter_of, provider_of, task_vocabulary, tasks_of

    name, split = data.task, data.split
    provider = provider_of(replace(data, vocabulary=None))
    if not tasks_of(provider, split):
        splits = list(map(str, provider.splits))
        message = f"task {name!r} has no split {split!r} (--evaluation.split); it has {', '.join(splits)}.{nearest(split, splits)}"
        if named:
            raise UserError(message)
        _log.warning("not evaluated: %s", message)
        return None
    try:
        same = task_vocabulary(replace(data, vocabulary=None)).identity() == vocabulary.identity()
    except UserError:  # a vocabulary of an unknown kind
        same = False
    data = replace(data, vocabulary=None if same else vocabulary)
    provider = provider_of(data)
    converter = converter_of(data, model.config.kind, provider)
    check_model(data, model.config)
    (task,) = tasks_of(provider)
    if len(task.metric_objs) > len(task.metric_fns):
        _log.warning("task %r: its metric_objs are not computed, only its metric_fns are", name)
    if objective is not None and (lacking := _lacking(objective, converter, provider)):
        _log.warning("task %r: the objective is not evaluated, it needs %s", name, lacking)
        objective = None
    return Source(
        model,
        data,
        task,
        vocabulary,
        batch_size=batch_size,
        examples=examples,
        few_shot=few_shot,
        named=named,
        objective=objective,
    )


def _lacking(objective: Objective, rows: FeatureConverter, provider: Any) -> str:
    """Return what the objective needs and a task does not have, or ""."""
    try:
        needed = objective.converter(rows).features
    except UserError as error:
        return f"other rows: {error}"
    return ", ".join(sorted(set(needed) - set(provider.output_features)))


def text_in(raw: Raw, name: str, vocabulary: Vocabulary) -> str:
    """Return a feature's text from before it was tokenized, else the text of its ids."""
    if f"{name}_pretokenized" in raw:
        return text_of(raw[f"{name}_pretokenized"])
    return vocabulary.decode(raw[name]) if name in raw else ""


def predicted_text(raw: Raw, wanted: Sequence[int], vocabulary: Vocabulary) -> str:
    """Return the text of the predicted ids: the example's text if they are all of it, else the decoded ids (a window of a longer text)."""
    ids = [i for i in wanted if i not in vocabulary.end_ids]  # the turns of a conversation have an end each
    if "targets_pretokenized" in raw:
        text = text_of(raw["targets_pretokenized"])
        if vocabulary.of_targets.encode(text) == ids:
            return text
    return vocabulary.decode(ids)
