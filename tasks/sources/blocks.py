"""Base class of data sources that read numbered blocks: even shards, shuffling by block, and checkpointable iterators."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from t2t.errors import UserError, nearest
from t2t.tasks.sources.values import LISTS

# 64-bit floats keep the numbers in files exact.
_DTYPES: dict[type, tf.DType] = {str: tf.string, int: tf.int64, float: tf.float64, bool: tf.bool}


class BlockSource(seqio.DataSource):
    """Data source whose examples are in numbered blocks.

    Of N examples in a split, shard i of n has the examples from N*i//n to N*(i+1)//n. Shards are disjoint and complete,
    and their sizes differ by at most one example. Shuffling permutes the blocks of a shard, in a new order in each epoch.
    Reading is a stateless function of the block's number, so TensorFlow can save an iterator's state.
    """

    def __init__(self, splits: Iterable[str]) -> None:
        super().__init__(splits=splits)

    @abc.abstractmethod
    def block_sizes(self, split: str) -> np.ndarray:
        """Return the number of examples of `split` in each block, int64 [blocks]."""

    @abc.abstractmethod
    def read_block(self, split: str, block: int) -> Sequence[Mapping[str, Any]]:
        """Return the examples of `split` in a block: field -> string, int, float or bool, or a list of one of these."""

    @abc.abstractmethod
    def fields(self) -> Mapping[str, type]:
        """Return the fields of an example and their types: str, int, float, bool, or a list of one of these (list[str])."""

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """Return True: any number of shards is possible."""
        return True

    def list_shards(self, split: str) -> Sequence[str]:
        """Return the split's name. SeqIO does not use it, because sharding is arbitrary."""
        return [split]

    def num_input_examples(self, split: str) -> int:
        """Return the number of examples of a split. Raise UserError for an unknown split."""
        return int(self.block_sizes(self.checked(split)).sum())

    def checked(self, split: str) -> str:
        """Return `split`. Raise UserError if the source has no such split."""
        if split not in self.splits:
            raise UserError(f"split {split!r} of {self}: unknown split.{nearest(split, self.splits)}")
        return split

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **unused: Any,
    ) -> tf.data.Dataset:
        """Return the examples of one shard of a split: dicts of scalars, and of vectors for lists.

        Raises:
          UserError: an unknown or empty split, or an invalid shard.
        """
        sizes = self.block_sizes(self.checked(split))
        total = int(sizes.sum())
        if not total:
            raise UserError(f"split {split!r} of {self} is empty: it has no examples.")
        shard, shards = (shard_info.index, shard_info.num_shards) if shard_info else (0, 1)
        if not 0 <= shard < shards:
            raise UserError(f"shard {shard} of {shards} of {self}: must be from 0 to {shards - 1}.")
        pieces = _pieces(sizes, total * shard // shards, total * (shard + 1) // shards)
        fields = self.fields()
        dtypes = [dtype for kind in fields.values() for dtype in _column_dtypes(kind)]

        def read(piece: np.ndarray) -> list[np.ndarray]:
            block, start, stop = (int(number) for number in piece)
            examples = self.read_block(split, block)[start:stop]
            return [column for name, kind in fields.items() for column in _columns([x[name] for x in examples], kind)]

        def examples(piece: tf.Tensor) -> tf.data.Dataset:
            # TensorFlow can save an iterator only over stateless functions.
            columns = iter(tf.numpy_function(read, [piece], dtypes, stateful=False))
            return tf.data.Dataset.from_tensor_slices({name: _joined(columns, kind) for name, kind in fields.items()})

        dataset = tf.data.Dataset.from_tensor_slices(pieces)
        if shuffle and len(pieces):
            dataset = dataset.shuffle(len(pieces), seed=seed)
        dataset = dataset.flat_map(examples)
        # Mapping converts each row of a ragged tensor to a tensor.
        return dataset.map(dict) if any(kind in LISTS for kind in fields.values()) else dataset


def _pieces(sizes: np.ndarray, first: int, last: int) -> np.ndarray:
    """Return (block, start, stop) for every block with examples from `begin` to `end`, int64 [pieces, 3]."""
    ends = np.cumsum(sizes)
    starts = ends - sizes
    low, high = np.maximum(starts, first), np.minimum(ends, last)
    blocks = np.flatnonzero(high > low)
    return np.stack([blocks, (low - starts)[blocks], (high - starts)[blocks]], axis=1).astype(np.int64)


def _column_dtypes(kind: type) -> list[tf.DType]:
    return [_DTYPES[LISTS[kind]], tf.int64] if kind in LISTS else [_DTYPES[kind]]


def _columns(values: list[Any], kind: type) -> list[np.ndarray]:
    """Return a field's values as an array. For lists, return the concatenated items and the length of each list."""
    if kind in LISTS:
        items = [item for value in values for item in value]
        return [*_columns(items, LISTS[kind]), np.array([len(value) for value in values], np.int64)]
    if kind is str:
        column = np.empty(len(values), dtype=object)
        column[:] = [value.encode("utf-8") for value in values]
        return [column]
    return [np.asarray(values, dtype=_DTYPES[kind].as_numpy_dtype)]


def _joined(columns: Iterator[tf.Tensor], kind: type) -> tf.Tensor | tf.RaggedTensor:
    """Reverse `_columns`."""
    values = next(columns)
    values.set_shape([None])
    if kind not in LISTS:
        return values
    lengths = next(columns)
    lengths.set_shape([None])
    return tf.RaggedTensor.from_row_lengths(values, lengths)
