"""Span corruption as a task of this stack, through `t2t.data.pipeline.batches`."""

from __future__ import annotations

from functools import partial

import numpy as np
import seqio

from benchmarks.cases import DATA_BATCHES, DATA_LENGTHS, DATA_ROWS, MEAN_SPAN, NOISE_DENSITY, Case
from benchmarks.peers.data_source import corpus_source, counted
from benchmarks.protocol import Prepared
from t2t.data.config import Data
from t2t.data.pipeline import batches
from t2t.tasks.objectives import span_corruption, text_features


def data(case: Case) -> Prepared:
    """Make the pipeline's batches ready, in the corpus's order, without end. There is one way here, texts packed; it stands beside both of theirs."""
    task = seqio.Task(
        case.model,
        source=corpus_source(case),
        output_features=text_features(seqio.ByteVocabulary(extra_ids=100)),
        preprocessors=[partial(span_corruption, noise_density=NOISE_DENSITY, mean_span=MEAN_SPAN)],
    )
    seqio.TaskRegistry.remove(case.model)
    seqio.TaskRegistry.add_provider(case.model, task)
    wanted = Data(
        task=case.model,
        inputs_length=DATA_LENGTHS["inputs"],
        targets_length=DATA_LENGTHS["targets"],
        batch_size=DATA_ROWS,
        seed=0,
        shuffle_buffer=0,
    )
    iterator = batches(wanted, "encoder_decoder")

    def batch() -> list[np.ndarray]:
        made = next(iterator)
        assert made.encoder is not None
        assert made.decoder is not None
        return [np.asarray(made.encoder.segments), np.asarray(made.decoder.segments)]

    return counted(batch, DATA_BATCHES, how="texts packed")
