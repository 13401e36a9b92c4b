"""Global batches that depend only on (task, seed, step). A thread makes them ahead of time, and they can be resumed."""

from __future__ import annotations

import functools
import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, cast

import tensorflow as tf

from t2t.data import sources
from t2t.data.cached import reading as cached
from t2t.data.config import Data
from t2t.data.converters import Convert, FeatureConverter, Row, unchanged
from t2t.data.evaluation import EvaluationBatches, evaluation_batches
from t2t.data.faults import surfaced
from t2t.data.registry import Provider, check, converter_of, provider_of, task_names, task_vocabulary, tasks_of
from t2t.data.report import Report, inspect
from t2t.data.shards import Counts, ShardReader
from t2t.errors import UserError
from t2t.nn.model import Kind
from t2t.types import Batch

__all__ = [
    "BatchIterator",
    "Counts",
    "EvaluationBatches",
    "Report",
    "batches",
    "evaluation_batches",
    "inspect",
    "task_names",
    "task_vocabulary",
]

_log = logging.getLogger(__name__)

AHEAD = 2
"""Number of batches that the thread makes ahead."""
KEPT = 8
"""Number of the last returned batches that `position` can still count as unused."""
PATIENCE = 20.0
"""Seconds without a batch before checking, once, whether the shards have any examples."""


def batches(
    data: Data,
    kind: Kind,
    *,
    process_index: int = 0,
    process_count: int = 1,
    repeat: bool = True,
    begin: bool = False,
    convert: Convert = unchanged,
) -> BatchIterator:
    """Return an iterator of this host's rows of each global batch.

    Host `process_index` of `process_count` owns a contiguous range of the virtual shards, and so batch_size / process_count rows.
    The rows of all hosts in order are the global batch. It is the same for any number of hosts.

    Args:
      repeat: iterate over the examples forever, with a different order and different random choices in each epoch. Without, return every
        example once and pad the last batches with empty rows of weight 0.
      begin: start to read each shard as soon as it is open, while the others are being opened. Use it if you read batches from the start.
      convert: replaces the default converter of the kind, see `t2t.objectives.Objective.converter`.

    Raises:
      UserError: the task or split does not exist, a size is not divisible, or there are no examples.
    """
    check(data, kind, process_index=process_index, process_count=process_count)
    try:
        provider = provider_of(data)
        layout = converter_of(data, kind, provider, convert)
        _check_sources(provider, data)
        return BatchIterator(provider, data, layout, process_index, process_count, repeat=repeat, begin=begin)
    except Exception as error:
        raise surfaced(error) from error


class BatchIterator:
    """Iterator of NumPy `Batch`es. The first `next` starts a thread that makes batches ahead of time.

    Only one thread may consume it at a time. `counts` includes the batches made ahead.
    """

    def __init__(
        self,
        provider: Provider,
        data: Data,
        layout: FeatureConverter,
        process_index: int,
        process_count: int,
        *,
        repeat: bool,
        begin: bool,
    ) -> None:
        self.layout = layout
        self._provider, self._data, self._repeat = provider, data, repeat
        self._cached = _cache_of(data, provider)
        own = data.shards // process_count
        self._own_shards = range(process_index * own, (process_index + 1) * own)
        # A finite pass ends with the last shard of all hosts. To know when, each host must read all shards.
        self._indices = self._own_shards if repeat else range(data.shards)
        self._shards: list[ShardReader] = []
        for index in self._indices:
            self._shards.append(self._shard(index))
            if begin:
                self._shards[-1].start()
        self._ramp = data.ramp
        self.returned = 0
        """Number of batches returned since the start of the run."""
        self._next = 0  # number of the batch to make
        self._returned: deque[list[list[Row]]] = deque(maxlen=KEPT)
        self._made: deque[tuple[list[list[Row]], Batch]] = deque()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._ended = self._closed = self._checked = False
        self._making = threading.Lock()  # held while rows move from the shards to `_made`
        self._changed = threading.Condition()  # guards `_made`, `_error`, `_ended`, `_closed`

    def __iter__(self) -> BatchIterator:
        return self

    def __next__(self) -> Batch:
        """Return the next batch.

        Raises:
          StopIteration: at the end of the data, without `repeat`.
          UserError: the source reports an error, for example a bad line.
        """
        self._start()
        while not self._wait(None if self._checked else PATIENCE):
            self._checked = True
            self._check_for_examples()
        with self._changed:
            if self._made:
                rows, batch = self._made.popleft()
                self._returned.append(rows)
                self.returned += 1
                self._changed.notify_all()
                return batch
            if self._error is not None:
                raise self._error
            if self._closed:
                raise RuntimeError("the batch iterator is closed")
        raise StopIteration

    def available(self) -> bool:
        """Return whether `next` would return a batch without waiting."""
        with self._changed:
            return bool(self._made)

    def rows(self, batch: int) -> int:
        """Return the rows of a global batch, which is counted from 0 and from the start of the run."""
        return self._ramp.at(batch)

    @property
    def counts(self) -> Counts:
        """Number of examples that this host read, trimmed and dropped as empty, since the first batch of the run."""
        counts = [
            shard.counts for index, shard in zip(self._indices, self._shards, strict=True) if index in self._own_shards
        ]
        return Counts(
            examples=sum(count.examples for count in counts),
            trimmed=sum(count.trimmed for count in counts),
            empty=sum(count.empty for count in counts),
        )

    def position(self, *, unused: int = 0) -> dict[str, bytes]:
        """Return the position after the returned batches, with one entry for each virtual shard of this host.

        Batches made ahead do not count. `restore` continues from the entries of all hosts with any number of hosts.

        unused: number of the last returned batches that do not count either.
        """
        if not 0 <= unused <= len(self._returned):
            raise ValueError(f"unused={unused}: only the last {len(self._returned)} returned batches can be taken back")
        with self._making, self._changed:
            unused_rows = [*list(self._returned)[len(self._returned) - unused :], *(rows for rows, _ in self._made)]
            return {
                self._key(index): shard.save(
                    [row for rows in unused_rows for row in rows[i]], self._identity(), self.returned - unused
                )
                for i, (index, shard) in enumerate(zip(self._indices, self._shards, strict=True))
                if index in self._own_shards
            }

    def restore(self, position: dict[str, bytes]) -> None:
        """Go to a position that `position` returned on any number of hosts. Entries for shards of other hosts are ignored.

        Raises:
          UserError: the entry of a shard is missing, damaged or belongs to different data.
        """
        missing = [self._key(index) for index in self._indices if self._key(index) not in position]
        if missing:
            raise UserError(
                f"data position: no entry {missing[0]}; it has {', '.join(sorted(position)[:3]) or 'no entries'}. "
                f"--data.shards={self._data.shards} must be the number that the run started with."
            )
        self._stop()
        with self._making:
            for index, shard in zip(self._indices, self._shards, strict=True):
                self.returned = self._next = shard.load(position[self._key(index)], self._identity())
            self._made.clear()
            self._returned.clear()
            self._error, self._ended, self._closed = None, False, False

    def close(self) -> None:
        """Stop the thread. After this, `next` raises RuntimeError until `restore` is called."""
        self._stop()
        self._made.clear()

    def _wait(self, seconds: float | None) -> bool:
        """Wait for a batch, an error or the end of the data. Return whether one came within `seconds`."""
        with self._changed:
            return self._changed.wait_for(
                lambda: bool(self._made) or self._error is not None or self._ended or self._closed, seconds
            )

    def _key(self, index: int) -> str:
        return f"shard_{index:05d}_of_{self._data.shards:05d}"

    def _shard(self, index: int) -> ShardReader:
        make = functools.partial(
            sources.examples,
            self._provider,
            self._data,
            self.layout,
            shard=index,
            shards=self._data.shards,
            repeat=self._repeat,
            shuffle=self._data.shuffle_buffer > 0,
        )
        name = f"task {self._data.task!r}, split {self._data.split!r}, shard {index} of {self._data.shards}"
        return ShardReader(make, self.layout, pack=self._data.pack, name=name)

    def _identity(self) -> dict[str, Any]:
        names = ("task", "split", "inputs_length", "targets_length", "pack", "shards", "seed", "shuffle_buffer")
        return {name: getattr(self._data, name) for name in names} | {
            "kind": self.layout.kind,
            "repeat": self._repeat,
            "cached": self._cached,
        }

    def _start(self) -> None:
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._make_batches, name="t2t-batches", daemon=True)
            self._thread.start()

    def _stop(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(
                timeout=5
            )  # it takes longer only if TensorFlow searches forever in a shard without examples
            self._thread = None

    def _make_batches(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: len(self._made) < AHEAD or self._closed)
                    if self._closed:
                        return
                with self._making:
                    each = self._ramp.at(self._next) // self._data.shards
                    rows = self._take(each)
                    batch = self._batch(rows, each) if any(rows) else None
                    self._next += 1
                    with self._changed:
                        if batch is None:
                            self._ended = True
                        else:
                            self._made.append((rows, batch))
                        self._changed.notify_all()
                if batch is None:
                    return
        except Exception as error:
            with self._changed:
                self._error = surfaced(error)
                self._changed.notify_all()

    def _take(self, each: int) -> list[list[Row]]:
        """Take `each` rows of every shard. If one shard fails, give back the rows of the others."""
        taken: list[list[Row]] = []
        try:
            for index, shard in zip(self._indices, self._shards, strict=True):
                taken.append(shard.take(each))
                if self._repeat and len(taken[-1]) < each:
                    raise UserError(
                        f"task {self._data.task!r}, split {self._data.split!r}: shard {index} of "
                        f"{self._data.shards} (--data.shards) has no examples. Nearest: fewer shards."
                    )
        except Exception:
            for shard, rows in zip(self._shards, taken, strict=False):
                shard.give_back(rows)
            raise
        return taken

    def _batch(self, taken: Sequence[list[Row]], each: int) -> Batch:
        rows: list[Row] = []
        for index, got in zip(self._indices, taken, strict=True):
            if index in self._own_shards:
                rows += got + cast(list[Row], [[]]) * (each - len(got))
        return self.layout.batch(rows)

    def _check_for_examples(self) -> None:
        """Raise UserError if a shard can never give an example: with `repeat`, it would search forever."""
        _log.info("no batch of task %s yet: checking whether its shards have any examples", self._data.task)
        for place, task in enumerate(tasks_of(self._provider)):
            for index in self._indices if self._data.split in task.splits else ():
                dataset = sources.raw(
                    task,
                    self._data,
                    self.layout,
                    place=place,
                    shard=index,
                    shards=self._data.shards,
                    repeat=False,
                    shuffle=self._data.shuffle_buffer > 0,
                )
                if not _count(dataset, 1):
                    raise UserError(
                        f"task {task.name!r}, split {self._data.split!r}: preprocessing leaves no examples of shard {index} "
                        f"of {self._data.shards} (--data.shards). Nearest: fewer shards, or another split."
                    )


def _cache_of(data: Data, provider: Provider) -> str | None:
    return None if data.cached is None else cached.identity(data.cached, tasks_of(provider, data.split), data.split)


def _check_sources(provider: Provider, data: Data) -> None:
    for task in tasks_of(provider, data.split):
        if data.cached is not None:
            count = cached.CachedTask(data.cached, task).examples(data.split)
        else:
            count = _count(sources.source(task, data, shuffle=False), data.shards)
        if not count:
            raise UserError(f"task {task.name!r}, split {data.split!r}: its source has no examples.")
        if count < data.shards:
            raise UserError(
                f"task {task.name!r}, split {data.split!r}: its source has {count} examples, fewer than "
                f"--data.shards={data.shards}. Nearest: {count}."
            )


def _count(dataset: tf.data.Dataset, at_most: int) -> int:
    return sum(1 for _ in dataset.take(at_most))
