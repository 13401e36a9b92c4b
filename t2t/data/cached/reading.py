"""A cached task while training: examples by number, in an order that is drawn, not shuffled through a buffer.

The order of epoch e is a permutation of all the task's examples that can be computed at any place (a small cipher), keyed by
(seed, place in the mixture, e). Virtual shard s of S has its places s, s + S, s + 2S, ...: in each epoch the shards
partition the examples, and a place in the stream is one number. Nothing of the corpus is held but the files' indexes.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from t2t.config import fingerprint
from t2t.data.cached import manifest as manifests
from t2t.data.cached.encoding import decode, finish
from t2t.data.cached.manifest import Manifest
from t2t.data.cached.steps import check, divided
from t2t.errors import UserError, nearest

AT_ONCE = 16
"""Examples read at a time: few enough that long texts take no memory to speak of, many enough for short ones."""


class Records:
    """Records of several ArrayRecord files by their number in all of them. Safe for several threads.

    in_turn: the files have every n-th record in turn, each; else one file's records follow those of the one before.
    """

    def __init__(self, paths: Sequence[Path], counts: Sequence[int], *, in_turn: bool = False) -> None:
        self._paths = list(paths)
        self._ends = list(itertools.accumulate(counts))
        # Cached steps that drop or add examples leave no order to be put together again.
        self._in_turn = in_turn and all(
            count == len(range(file, len(self), len(self._paths))) for file, count in enumerate(counts)
        )
        self._readers: list[Any] = [None] * len(self._paths)
        self._opening = threading.Lock()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, numbers: np.ndarray) -> list[bytes]:
        """Return the records of these numbers, in their order.

        Raises:
          UserError: a file is damaged.
        """
        by_file: dict[int, list[tuple[int, int]]] = {}
        for slot, number in enumerate(numbers.tolist()):
            file, place = self._place(number)
            by_file.setdefault(file, []).append((place, slot))
        found: list[bytes] = [b""] * len(numbers)
        for file, wanted in by_file.items():
            try:
                records = self._reader(file).read([place for place, _ in wanted])
            except (ValueError, IndexError, RuntimeError, OSError) as error:
                reason = " ".join(str(error).split())[:200]
                raise UserError(
                    f"{self._paths[file]}: cannot be read ({reason}). `t2t cache ... --verify` names what is damaged."
                ) from None
            for (_, slot), record in zip(wanted, records, strict=True):
                found[slot] = record
        return found

    def _place(self, number: int) -> tuple[int, int]:
        """Return a record's file and its place there."""
        if self._in_turn:
            return number % len(self._paths), number // len(self._paths)
        file = bisect.bisect_right(self._ends, number)
        return file, number - (self._ends[file - 1] if file else 0)

    def _reader(self, file: int) -> Any:
        if self._readers[file] is None:
            from array_record.python import array_record_module

            with self._opening:
                if self._readers[file] is None:
                    self._readers[file] = array_record_module.ArrayRecordReader(
                        str(self._paths[file]), options="readahead_buffer_size:0", file_reader_buffer_size=32768
                    )
        return self._readers[file]


class CachedTask:
    """A task's cache in the directory that `--data.cached` names.

    Raises:
      UserError: there is none, it is not complete, a file is missing or of another size, or it is that of another task.
    """

    def __init__(self, out: str, task: seqio.Task) -> None:
        directory = manifests.directory_of(out, task.name)
        self.manifest, self._records = _opened(directory, _stamp(directory))
        self._directory = directory
        self._task, self._marked = divided(task), task.supports_caching
        check(self.manifest, self._task, directory)

    def has(self, split: str) -> bool:
        """Whether that split is cached."""
        return split in self.manifest.splits

    def examples(self, split: str) -> int:
        """Return the number of examples of a split. Raises UserError for one that is not cached."""
        return len(self._of(split))

    def seed(self, seed: int) -> int:
        """Return the seed with which `task` makes the random choices that the whole task makes with `seed`.

        SeqIO adds 42 for every step before a placeholder, which the task may not have had.
        """
        steps = list(self._task.preprocessors)
        place = next(i for i, step in enumerate(steps) if isinstance(step, seqio.CacheDatasetPlaceholder))
        return seed if self._marked else seed - 42 * place

    def task(self) -> seqio.Task:
        """Return the task with the steps that are left to do behind a placeholder, its sizes being those of the cache."""
        task: Any = self._task.replace()
        task.num_input_examples = lambda split: self.examples(split) if self.has(split) else None
        return task

    def dataset(
        self, split: str, *, seed: int, shard: int, shards: int, repeat: bool, shuffle: bool
    ) -> tf.data.Dataset:
        """Return the examples of one virtual shard, as the cached steps left them, each epoch in another order.

        seed: of the order, the same for all shards; at least 0 and below 2^31.
        """
        records = self._of(split)
        count = len(records)
        # In the source's order a shard has what it would have without a cache: a piece where the source can be cut anywhere.
        if not shuffle and self._task.source.supports_arbitrary_sharding:
            mine = range(count * shard // shards, count * (shard + 1) // shards)
        else:
            mine = range(shard, count, shards)
        share = len(mine)
        fields = self.manifest.fields

        def number(place: tf.Tensor) -> tf.Tensor:
            epoch, place = place // share, mine.start + place % share * mine.step
            return ordered(place, count, seed=seed, epoch=epoch) if shuffle else place

        def read(which: np.ndarray) -> np.ndarray:
            found = np.empty(len(which), dtype=object)
            found[:] = records.read(which)
            return found

        def examples(which: tf.Tensor) -> Any:
            # Stateless, or TensorFlow would refuse to save the iterator.
            found = tf.numpy_function(read, [which], tf.string, stateful=False)
            found.set_shape([None])
            return decode(found, fields)

        places = tf.data.Dataset.range(2**62 if repeat and share else share)
        made = places.map(number).batch(AT_ONCE).map(examples).unbatch().map(lambda example: finish(example, fields))
        return made.with_options(_options())

    def _of(self, split: str) -> Records:
        if split not in self._records:
            splits = list(self.manifest.splits)
            raise UserError(
                f"{self._directory} (--data.cached) has no split {split!r}; it has {', '.join(splits)}."
                f"{nearest(split, splits)}"
            )
        return self._records[split]


def has(out: str, task: seqio.Task, split: str) -> bool:
    """Whether `out` has a split of a task cached, by the task's name; what is amiss with it comes out when it is read."""
    directory = manifests.directory_of(out, task.name)
    return (directory / manifests.MANIFEST).is_file() and split in manifests.load(directory).splits


def identity(out: str, tasks: Sequence[seqio.Task], split: str) -> str:
    """Return what a data position over these tasks' caches belongs to: their content, wherever it lies."""
    found = {task.name: CachedTask(out, task) for task in tasks}
    return fingerprint({name: cached.manifest.splits[split] for name, cached in found.items() if cached.has(split)})


def ordered(place: tf.Tensor, count: int, *, seed: int, epoch: tf.Tensor) -> tf.Tensor:
    """Return which of `count` examples stands at a place, scalar int64, of an epoch's order: a permutation of all places."""
    key = tf.stack([np.int32(seed), tf.cast(epoch, tf.int32)])
    return tf.random.experimental.index_shuffle(place, seed=key, max_index=np.int64(count - 1))


def _options() -> tf.data.Options:
    """Return the option to save the place in the stream and nothing that was read ahead of it."""
    options = tf.data.Options()
    options.experimental_symbolic_checkpoint = True
    return options


def _stamp(directory: Path) -> int:
    try:
        return os.stat(directory / manifests.MANIFEST).st_mtime_ns
    except OSError:
        return 0


@functools.lru_cache(maxsize=256)
def _opened(directory: Path, stamp: int) -> tuple[Manifest, dict[str, Records]]:
    """Return a manifest and the files of each split, shared by all virtual shards; `stamp` tells one cache from the next."""
    manifest = manifests.load(directory)
    for found in manifests.problems(directory, manifest, content=False):
        raise UserError(f"{found} (--data.cached). The same `t2t cache` again makes it anew.")
    return manifest, {
        split: Records(
            [directory / shard.file for shard in shards],
            [shard.examples for shard in shards],
            in_turn=all(shard.every > 1 for shard in shards),
        )
        for split, shards in manifest.splits.items()
    }
