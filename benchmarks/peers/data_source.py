"""The in-memory corpus as a SeqIO source, and token counts of batches. Shared by our peer and T5X."""

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
    """Texts as token ids in the field `targets`, sharded by example."""

    def __init__(self, texts: list[np.ndarray]) -> None:
        super().__init__(splits=("train",))
        self._texts = texts

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """Always True."""
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
        """Return the texts of a shard, in order."""
        texts = self._texts[shard_info.index :: shard_info.num_shards] if shard_info else self._texts
        ragged = tf.RaggedTensor.from_row_lengths(np.concatenate(texts), [len(text) for text in texts])
        dataset = tf.data.Dataset.from_tensor_slices({"targets": ragged})
        dataset = dataset.map(lambda example: {"targets": tf.ensure_shape(example["targets"], [None])})
        return dataset.repeat(num_epochs)


def corpus_source(case: Case) -> Corpus:
    """Return the corpus of the case."""
    return Corpus(corpus(case))


def counted(batch: Callable[[], list[np.ndarray]], count: int, **facts: Any) -> Prepared:
    """Return a run of `count` batches. Its token count is that of the first run; batches have enough rows that the counts of other runs are similar.

    batch: return the segments of the next batch, for inputs and targets; 0 is padding.
    """
    first = [batch() for _ in range(count)]
    filled = [int((segments > 0).sum()) for arrays in first for segments in arrays]
    places = sum(segments.size for arrays in first for segments in arrays)

    def run() -> None:
        for _ in range(count):
            batch()

    return Prepared(run=run, tokens=sum(filled), facts={"filled": sum(filled) / places, **facts})
