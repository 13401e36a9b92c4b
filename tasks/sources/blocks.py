"""A data source made of blocks that are read at random: sharded evenly, shuffled by block, and checkpointable."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from t2t.errors import UserError, nearest
from t2t.tasks.sources.values import LISTS

# Floats of 64 bits: in 32 a number of a file would be another one.
_DTYPES: dict[type, tf.DType] = {str: tf.string, int: tf.int64, float: tf.float64, bool: tf.bool}


class BlockSource(seqio.DataSource):
    """Examples in numbered blocks.

    Shard i of n holds the examples from N*i//n to N*(i+1)//n of a split's N, whatever the blocks: shards are disjoint,
    complete, and differ by one example at most. Shuffling permutes a shard's blocks, anew each time round. Reading is
    a stateless function of the block's number, so that an iterator's state can be saved.
    """

    def __init__(self, splits: Iterable[str]) -> None:
        super().__init__(splits=splits)

    @abc.abstractmethod
    def block_sizes(self, split: str) -> np.ndarray:
        """Return how many examples of `split` each block has, int64 [blocks]."""

    @abc.abstractmethod
    def read_block(self, split: str, block: int) -> Sequence[Mapping[str, Any]]:
        """Return the examples of `split` in a block: by field a string, int, float or bool, or a list of one of these."""

    @abc.abstractmethod
    def fields(self) -> Mapping[str, type]:
        """Return the fields of an example and their types: str, int, float, bool, or a list of one of these (list[str])."""

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """True: any number of shards."""
        return True

    def list_shards(self, split: str) -> Sequence[str]:
        """Return the split's name; SeqIO does not ask, as sharding is arbitrary."""
        return [split]

    def num_input_examples(self, split: str) -> int:
        """Return the number of examples of a split. Raises UserError for a split that there is not."""
        return int(self.block_sizes(self.checked(split)).sum())

    def checked(self, split: str) -> str:
        """Return `split`. Raises UserError where the source has no such split."""
        if split not in self.splits:
            raise UserError(f"split {split!r} of {self}: no such split.{nearest(split, self.splits)}")
        return split

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **unused: Any,
    ) -> tf.data.Dataset:
        """Return the examples of a shard of a split, a dict of scalars, and vectors for lists, each.

        Raises:
          UserError: an unknown or empty split, or a shard that there is not.
        """
        sizes = self.block_sizes(self.checked(split))
        total = int(sizes.sum())
        if not total:
            raise UserError(f"split {split!r} of {self} is empty: it has no example at all.")
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
            # Stateless, or TensorFlow would refuse to save the iterator.
            columns = iter(tf.numpy_function(read, [piece], dtypes, stateful=False))
            return tf.data.Dataset.from_tensor_slices({name: _joined(columns, kind) for name, kind in fields.items()})

        dataset = tf.data.Dataset.from_tensor_slices(pieces)
        if shuffle and len(pieces):
            dataset = dataset.shuffle(len(pieces), seed=seed)
        dataset = dataset.flat_map(examples)
        # A row of a ragged tensor is a tensor once it is mapped.
        return dataset.map(dict) if any(kind in LISTS for kind in fields.values()) else dataset


def _pieces(sizes: np.ndarray, begin: int, end: int) -> np.ndarray:
    """Return (block, start, stop) for every block with examples from `begin` to `end`, int64 [pieces, 3]."""
    ends = np.cumsum(sizes)
    starts = ends - sizes
    low, high = np.maximum(starts, begin), np.minimum(ends, end)
    blocks = np.flatnonzero(high > low)
    return np.stack([blocks, (low - starts)[blocks], (high - starts)[blocks]], axis=1).astype(np.int64)


def _column_dtypes(kind: type) -> list[tf.DType]:
    return [_DTYPES[LISTS[kind]], tf.int64] if kind in LISTS else [_DTYPES[kind]]


def _columns(values: list[Any], kind: type) -> list[np.ndarray]:
    """Return a field's values as an array; of lists their items, and how many each list has."""
    if kind in LISTS:
        items = [item for value in values for item in value]
        return [*_columns(items, LISTS[kind]), np.array([len(value) for value in values], np.int64)]
    if kind is str:
        column = np.empty(len(values), dtype=object)
        column[:] = [value.encode("utf-8") for value in values]
        return [column]
    return [np.asarray(values, dtype=_DTYPES[kind].as_numpy_dtype)]


def _joined(columns: Iterator[tf.Tensor], kind: type) -> tf.Tensor | tf.RaggedTensor:
    """Take what `_columns` made of a field."""
    values = next(columns)
    values.set_shape([None])
    if kind not in LISTS:
        return values
    lengths = next(columns)
    lengths.set_shape([None])
    return tf.RaggedTensor.from_row_lengths(values, lengths)
