"""Span corruption with the preprocessors of the t5 package and SeqIO's packing, as in T5X."""

from __future__ import annotations

import functools
import importlib

import numpy as np
import seqio
import tensorflow as tf

from benchmarks.cases import DATA_BATCHES, DATA_LENGTHS, DATA_ROWS, MEAN_SPAN, NOISE_DENSITY, Case
from benchmarks.peers.data_source import corpus_source, counted
from benchmarks.peers.t5x_import import bare
from benchmarks.protocol import Prepared


def data(case: Case) -> Prepared:
    """Prepare the batches of `seqio.get_dataset`, in corpus order, repeated forever."""
    bare("t5")
    bare("t5.data")
    preprocessors = importlib.import_module("t5.data.preprocessors")
    merged = case.model == "span_corruption_merged"
    vocabulary = seqio.ByteVocabulary(extra_ids=100)
    features = {name: seqio.Feature(vocabulary=vocabulary, add_eos=True) for name in DATA_LENGTHS}
    corrupt = functools.partial(
        preprocessors.span_corruption,
        mean_noise_span_length=MEAN_SPAN,
        noise_density=NOISE_DENSITY,
        merge_examples_to_reduce_padding=merged,
    )
    task = seqio.Task(
        case.model,
        source=corpus_source(case),
        output_features=features,
        preprocessors=[corrupt, seqio.preprocessors.append_eos_after_trim],
    )
    seqio.TaskRegistry.remove(case.model)
    seqio.TaskRegistry.add_provider(case.model, task)
    dataset = seqio.get_dataset(
        case.model,
        task_feature_lengths=DATA_LENGTHS,
        dataset_split="train",
        shuffle=False,
        num_epochs=None,
        feature_converter=seqio.EncDecFeatureConverter(pack=True),
        batch_size=DATA_ROWS,
        seed=0,
    )
    iterator = dataset.prefetch(tf.data.AUTOTUNE).as_numpy_iterator()
    names = ("encoder_segment_ids", "decoder_segment_ids")

    def batch() -> list[np.ndarray]:
        arrays = next(iterator)
        return [arrays[name] for name in names]

    return counted(batch, DATA_BATCHES, how="texts joined, cut to whole rows" if merged else "texts packed")
