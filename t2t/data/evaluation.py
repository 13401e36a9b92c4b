"""Iterate over every example of a split once, in order, with its texts: for evaluation and for prediction files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from t2t.data import sources
from t2t.data.cached.reading import has
from t2t.data.config import Data
from t2t.data.converters import Convert, Row, unchanged
from t2t.data.faults import surfaced
from t2t.data.registry import check, converter_of, provider_of, tasks_of
from t2t.data.shards import Counts
from t2t.errors import UserError
from t2t.nn.model import Kind
from t2t.types import Batch


def evaluation_batches(
    data: Data,
    kind: Kind,
    batch_size: int | None = None,
    *,
    process_index: int = 0,
    process_count: int = 1,
    examples: int | None = None,
    convert: Convert = unchanged,
) -> EvaluationBatches:
    """Return an iterator of (batch, raw examples) over `data.split`.

    Each row has one example, in the order of the source. The tasks of a mixture follow one another.
    `data.pack`, `data.shards` and `data.shuffle_buffer` are ignored. `data.seed` makes the random choices of objectives the same in each evaluation.
    This host gets its contiguous part of each global batch. Empty rows of weight 0 pad the last batch.
    There is one raw example for each row that is not empty: a dict of NumPy values with all fields of the task,
    such as ids before truncation and `inputs_pretokenized`.

    Args:
      batch_size: rows in a global batch, over all hosts. None uses `data.batch_size`.
      examples: maximum number of examples of each task. None reads all.
      convert: replaces the default converter of the kind, see `t2t.objectives.Objective.converter`.

    Raises:
      UserError: for the reasons of `t2t.data.pipeline.batches`, or if a task has no examples in the split.
    """
    size = data.batch_size if batch_size is None else batch_size
    if size < 1 or size % process_count:
        nearest = max(process_count, round(size / process_count) * process_count)
        raise UserError(
            f"evaluation's batch_size={size} is not a positive multiple of the number of processes, {process_count}. "
            f"Nearest: {nearest}."
        )
    if examples is not None and examples < 1:
        raise UserError(f"examples={examples}: must be at least 1.")
    check(data, kind, process_index=process_index, process_count=process_count, training=False)
    return EvaluationBatches(data, kind, size, process_index, process_count, examples, convert)


class EvaluationBatches:
    """Iterator of (Batch, raw examples). `layout` is the feature converter. `counts` counts the examples read so far."""

    def __init__(
        self,
        data: Data,
        kind: Kind,
        batch_size: int,
        process_index: int,
        process_count: int,
        examples: int | None,
        convert: Convert,
    ) -> None:
        self._data = data
        self._provider = provider_of(data)
        self.layout = converter_of(data, kind, self._provider, convert)
        self.counts = Counts()
        self._batch_size = batch_size
        self._examples = examples
        rows_each = batch_size // process_count
        self._own_rows = slice(process_index * rows_each, (process_index + 1) * rows_each)
        self._iterator = self._batches()

    def __iter__(self) -> Iterator[tuple[Batch, list[dict[str, Any]]]]:
        return self

    def __next__(self) -> tuple[Batch, list[dict[str, Any]]]:
        """Return the next batch and its raw examples. Raises UserError if the source reports an error."""
        try:
            return next(self._iterator)
        except StopIteration:
            raise
        except Exception as error:
            raise surfaced(error) from error

    def _raw(self) -> Iterator[dict[str, Any]]:
        for place, task in enumerate(tasks_of(self._provider)):
            if self._data.split not in task.splits:
                continue
            data = self._data
            if data.cached is not None and not has(
                data.cached, task, data.split
            ):  # read the same examples from the source
                data = replace(data, cached=None)
            dataset = sources.raw(task, data, self.layout, place=place, repeat=False, shuffle=False)
            sources.check_features(task, self.layout, dataset.element_spec)
            count = 0
            for example in tfds.as_numpy(dataset if self._examples is None else dataset.take(self._examples)):
                count += 1
                yield example
            if not count:
                raise UserError(f"task {task.name!r}, split {self._data.split!r} has no examples.")

    def _batches(self) -> Iterator[tuple[Batch, list[dict[str, Any]]]]:
        raws: list[dict[str, Any]] = []
        for raw in self._raw():
            raws.append(raw)
            if len(raws) == self._batch_size:
                yield self._batch(raws)
                raws = []
        if raws:
            yield self._batch(raws)

    def _batch(self, raws: list[dict[str, Any]]) -> tuple[Batch, list[dict[str, Any]]]:
        rows: list[Row] = []
        for raw in raws:
            example, trimmed = self.layout.fit({name: np.asarray(raw[name]) for name in self.layout.features})
            self.counts.examples += 1
            self.counts.trimmed += trimmed
            self.counts.empty += not self.layout.predicts(example)
            rows.append([example])
        rows += [[]] * (self._batch_size - len(rows))
        return self.layout.batch(rows[self._own_rows]), raws[self._own_rows]
