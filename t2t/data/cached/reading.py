"""Read a cached task during training: random access to examples, in a random order over all examples instead of a shuffle buffer.

The order of epoch e is a permutation of all examples, keyed by (seed, place in the mixture, e). It is a small cipher, so that it can be
computed for any position alone. Virtual shard s of S has the positions s, s + S, s + 2S, ... In each epoch, the shards partition the examples.
The position in the stream is one number. Only the indexes of the files are in memory.
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
from t2t.data.cached.steps import cached_steps, check, with_placeholder
from t2t.errors import UserError, nearest

AT_ONCE = 16
"""Number of examples read at a time: small enough for the memory of long texts, large enough for the speed of short ones."""


class Records:
    """Random access to the records of several ArrayRecord files by a global index. Thread-safe.

    interleaved: whether the records alternate between the n files, so that each has every n-th record. If False, the files follow one another.
    """

    def __init__(self, paths: Sequence[Path], counts: Sequence[int], *, interleaved: bool = False) -> None:
        self._paths = list(paths)
        self._ends = list(itertools.accumulate(counts))
        # If the cached steps drop or add examples, the source's order cannot be restored.
        self._interleaved = interleaved and all(
            count == len(range(file, len(self), len(self._paths))) for file, count in enumerate(counts)
        )
        self._readers: list[Any] = [None] * len(self._paths)
        self._opening = threading.Lock()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, numbers: np.ndarray) -> list[bytes]:
        """Return the records with these indexes, in the same order.

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
                    f"{self._paths[file]}: cannot be read ({reason}). `t2t cache ... --verify` finds damaged files."
                ) from None
            for (_, slot), record in zip(wanted, records, strict=True):
                found[slot] = record
        return found

    def _place(self, number: int) -> tuple[int, int]:
        """Return the file of a record and its index there."""
        if self._interleaved:
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
    """The cache of a task in the directory `--data.cached`.

    Raises:
      UserError: there is no cache, it is incomplete, a file is missing or has a different size, or it belongs to another task.
    """

    def __init__(self, out: str, task: seqio.Task) -> None:
        directory = manifests.directory_of(out, task.name)
        self.manifest, self._records = _open(directory, _stamp(directory))
        self._directory = directory
        self._task, self._marked = with_placeholder(task), task.supports_caching
        check(self.manifest, self._task, directory)

    def has(self, split: str) -> bool:
        """Return whether the split is cached."""
        return split in self.manifest.splits

    def examples(self, split: str) -> int:
        """Return the number of examples in a split. Raises UserError if it is not cached."""
        return len(self._records_of(split))

    def seed(self, seed: int) -> int:
        """Return the seed with which `task` makes the same random choices as the original task with `seed`.

        SeqIO adds 42 for each step before the placeholder, and the original task may have no placeholder.
        """
        return seed if self._marked else seed - 42 * len(cached_steps(self._task))

    def task(self) -> seqio.Task:
        """Return the task with a placeholder before its remaining steps, and with the sizes of the cache."""
        task: Any = self._task.replace()
        task.num_input_examples = lambda split: self.examples(split) if self.has(split) else None
        return task

    def dataset(
        self, split: str, *, seed: int, shard: int, shards: int, repeat: bool, shuffle: bool
    ) -> tf.data.Dataset:
        """Return the cached examples of one virtual shard. With `shuffle`, each epoch has a different order.

        seed: seed of the order, the same for all shards, from 0 to 2^31 - 1.
        """
        records = self._records_of(split)
        count = len(records)
        # Without shuffling, a shard gets the same examples as without a cache: a contiguous part if the source supports it.
        if not shuffle and self._task.source.supports_arbitrary_sharding:
            own_positions = range(count * shard // shards, count * (shard + 1) // shards)
        else:
            own_positions = range(shard, count, shards)
        shard_size = len(own_positions)
        fields = self.manifest.fields

        def number(place: tf.Tensor) -> tf.Tensor:
            epoch, place = place // shard_size, own_positions.start + place % shard_size * own_positions.step
            return ordered(place, count, seed=seed, epoch=epoch) if shuffle else place

        def read(indexes: np.ndarray) -> np.ndarray:
            found = np.empty(len(indexes), dtype=object)
            found[:] = records.read(indexes)
            return found

        def examples(indexes: tf.Tensor) -> Any:
            # stateful=False, because TensorFlow cannot save an iterator with stateful functions.
            found = tf.numpy_function(read, [indexes], tf.string, stateful=False)
            found.set_shape([None])
            return decode(found, fields)

        places = tf.data.Dataset.range(2**62 if repeat and shard_size else shard_size)
        dataset = places.map(number).batch(AT_ONCE).map(examples).unbatch().map(lambda example: finish(example, fields))
        return dataset.with_options(_options())

    def _records_of(self, split: str) -> Records:
        if split not in self._records:
            splits = list(self.manifest.splits)
            raise UserError(
                f"{self._directory} (--data.cached) has no split {split!r}; it has {', '.join(splits)}."
                f"{nearest(split, splits)}"
            )
        return self._records[split]


def has(out: str, task: seqio.Task, split: str) -> bool:
    """Return whether `out` has a cache with this split for the task's name. Other problems are found when it is read."""
    directory = manifests.directory_of(out, task.name)
    return (directory / manifests.MANIFEST).is_file() and split in manifests.load(directory).splits


def identity(out: str, tasks: Sequence[seqio.Task], split: str) -> str:
    """Return a fingerprint of the content of these tasks' caches, whatever their directory. Data positions are bound to it."""
    found = {task.name: CachedTask(out, task) for task in tasks}
    return fingerprint({name: cached.manifest.splits[split] for name, cached in found.items() if cached.has(split)})


def ordered(place: tf.Tensor, count: int, *, seed: int, epoch: tf.Tensor) -> tf.Tensor:
    """Return the index of the example at a position (scalar int64) of an epoch's order: a permutation of `count` examples."""
    key = tf.stack([np.int32(seed), tf.cast(epoch, tf.int32)])
    return tf.random.experimental.index_shuffle(place, seed=key, max_index=np.int64(count - 1))


def _options() -> tf.data.Options:
    """Return options that save the position in the stream but no examples read ahead."""
    options = tf.data.Options()
    options.experimental_symbolic_checkpoint = True
    return options


def _stamp(directory: Path) -> int:
    try:
        return os.stat(directory / manifests.MANIFEST).st_mtime_ns
    except OSError:
        return 0


@functools.lru_cache(maxsize=256)
def _open(directory: Path, stamp: int) -> tuple[Manifest, dict[str, Records]]:
    """Return the manifest and the records of each split, shared by all virtual shards. A new `stamp` means that the cache was rewritten."""
    manifest = manifests.load(directory)
    for found in manifests.problems(directory, manifest, content=False):
        raise UserError(f"{found} (--data.cached). Run the same `t2t cache` again to rewrite it.")
    return manifest, {
        split: Records(
            [directory / shard.file for shard in shards],
            [shard.examples for shard in shards],
            interleaved=all(shard.every > 1 for shard in shards),
        )
        for split, shards in manifest.splits.items()
    }
