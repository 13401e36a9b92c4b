"""The corpus in memory as a SeqIO source, and batches counted: the same for ours and theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from benchmarks.batches import corpus
from benchmarks.cases import Case
from benchmarks.protocol import Prepared


class Corpus(seqio.DataSource):
    """Texts that are token ids already, field `targets`, sharded by example."""

    def __init__(self, texts: list[np.ndarray]) -> None:
        super().__init__(splits=("train",))
        self._texts = texts

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """True: any number of shards."""
        return True

    def list_shards(self, split: str) -> list[str]:
        """Return the split's name."""
        return [split]

    def num_input_examples(self, split: str) -> int:
        """Return the number of texts."""
        return len(self._texts)

    def get_dataset(
        self, split: str = "train", shuffle: bool = True, seed: Any = None, shard_info: Any = None, num_epochs: Any = 1
    ) -> tf.data.Dataset:
        """Return a shard's texts, in order."""
        own = self._texts[shard_info.index :: shard_info.num_shards] if shard_info else self._texts
        ragged = tf.RaggedTensor.from_row_lengths(np.concatenate(own), [len(text) for text in own])
        dataset = tf.data.Dataset.from_tensor_slices({"targets": ragged})
        dataset = dataset.map(lambda example: {"targets": tf.ensure_shape(example["targets"], [None])})
        return dataset.repeat(num_epochs)


def corpus_source(case: Case) -> Corpus:
    """Return the case's corpus."""
    return Corpus(corpus(case))


def counted(batch: Callable[[], list[np.ndarray]], count: int, **facts: Any) -> Prepared:
    """Return `count` batches as one run. Its tokens are those of the first batches; rows are so many that these are like any others.

    batch: returns the next batch's segments, inputs' and targets', 0 being padding.
    """
    first = [batch() for _ in range(count)]
    filled = [int((segments > 0).sum()) for made in first for segments in made]
    places = sum(segments.size for made in first for segments in made)

    def run() -> None:
        for _ in range(count):
            batch()

    return Prepared(run=run, tokens=sum(filled), facts={"filled": sum(filled) / places, **facts})
