"""Span corruption as a t2t task, through `t2t.data.pipeline.batches`."""

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
    """Prepare the batches of the pipeline, in corpus order, repeated forever. t2t always packs texts, so it is compared with both methods of T5X."""
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
        found = next(iterator)
        assert found.encoder is not None
        assert found.decoder is not None
        return [np.asarray(found.encoder.segments), np.asarray(found.decoder.segments)]

    return counted(batch, DATA_BATCHES, how="texts packed")
