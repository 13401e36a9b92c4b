"""A task may say how its examples fill rows."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np
import pytest
import seqio
import tensorflow as tf

from t2t import models, tasks
from t2t.checkpoint import CheckpointConfig
from t2t.data import Data
from t2t.data.pipeline import batches, evaluation_batches
from t2t.errors import UserError
from t2t.objectives import CrossEntropy
from t2t.optim import AdamW, Constant
from t2t.tasks import sources
from t2t.tasks.objectives import text_features
from t2t.train.evaluation import Evaluation
from t2t.train.experiment import Experiment
from t2t.train.loop import train
from t2t.train.run import RunRecord, SavedRun, open_run
from t2t.types import Extra
from t2t.vocabularies import Bytes

TEXTS = ["one", "three", "fourteen", "a", "letters", "of words", "and so on", "the end"] * 2


@dataclass(frozen=True, kw_only=True)
class Rated(CrossEntropy):
    """Cross-entropy that also reports the mean reward. It declares no array: the task brings it."""

    def loss(self, model, params, batch, dropout_key=None):
        sums = super().loss(model, params, batch, dropout_key)
        present = jnp.asarray(batch.extra["reward"] != 0, jnp.float32)
        return replace(sums, extra={"reward": (jnp.sum(batch.extra["reward"]), jnp.sum(present))})


def with_reward(rows):
    return replace(rows, extras=(*rows.extras, Extra(name="reward", slots=3)))


def add(name, path, converter):
    rewards = seqio.Feature(seqio.PassThroughVocabulary(1), add_eos=False, rank=0, dtype=tf.float32)
    tasks.add(
        name,
        source=sources.jsonl(
            {"train": str(path), "validation": str(path.with_name("held.jsonl"))}, fields={"text": str, "reward": float}
        ),
        inputs="text",
        targets="text",
        keep=("reward",),
        features=lambda vocabulary: {**text_features(vocabulary), "reward": rewards},
        converter=converter,
        replace=True,
    )


@pytest.fixture(autouse=True)
def rated_texts(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text, "reward": i + 1.0}) + "\n" for i, text in enumerate(TEXTS)))
    path.with_name("held.jsonl").write_text('{"text": "held", "reward": 1}\n{"text": "out", "reward": 2}\n')
    add("rated_texts", path, with_reward)
    yield path
    for name in ("rated_texts", "other_texts"):
        seqio.TaskRegistry.remove(name)
    seqio.MixtureRegistry.remove("mixed_texts")


EXPERIMENT = Experiment(
    model=models.t5.t5(num_layers=1, d_model=16, num_heads=2, d_ff=16, vocab_size=384),
    data=Data(task="rated_texts", inputs_length=16, targets_length=16, batch_size=8, shards=2, shuffle_buffer=8),
    optimizer=AdamW(schedule=Constant(peak=1e-2)),
    objective=Rated(),
    steps=2,
    log_every=1,
    checkpoint=CheckpointConfig(every=2),
    evaluation=Evaluation(split=None),
)


class Kept:
    """An observer that keeps the metrics."""

    def __init__(self):
        self.metrics = []

    def on_log(self, step, metrics):
        self.metrics.append(metrics)

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


def test_training_gets_the_arrays_that_the_task_adds(tmp_path):
    # The step that is compiled before the data is opened lacks the array: it is compiled again.
    seen = Kept()
    run = tmp_path / "run"
    record = RunRecord(recipe="rated", experiment=EXPERIMENT, vocabulary=Bytes())
    assert train(run, open_run(run, record), seen).step == 2
    data = batches(EXPERIMENT.resolved_data(), "encoder_decoder")
    try:
        arrays = [next(data).extra["reward"] for _ in range(2)]
    finally:
        data.close()
    assert [round(float(m["reward"]), 4) for m in seen.metrics] == [
        round(float(np.sum(array) / np.count_nonzero(array)), 4) for array in arrays
    ]
    assert SavedRun.load(run).experiment.objective == Rated()


def test_evaluation_batches_have_them_too():
    made = evaluation_batches(replace(EXPERIMENT.resolved_data(), split="validation"), "encoder_decoder", 2, examples=2)
    (batch, _), *_ = made
    np.testing.assert_array_equal(batch.extra["reward"], [[1, 0, 0], [2, 0, 0]])


def test_a_task_that_is_added_again_without_a_converter_has_none(rated_texts):
    add("rated_texts", rated_texts, None)
    data = batches(EXPERIMENT.resolved_data(), "encoder_decoder")
    try:
        assert next(data).extra == {}
    finally:
        data.close()


def test_a_mixture_has_one_converter(rated_texts):
    add("other_texts", rated_texts, None)
    seqio.MixtureRegistry.add("mixed_texts", ["rated_texts", "other_texts"], default_rate=1)
    data = replace(EXPERIMENT.resolved_data(), task="mixed_texts")
    with pytest.raises(UserError, match=r"mixture 'mixed_texts': tasks 'other_texts' and 'rated_texts' have different"):
        batches(data, "encoder_decoder")
    add("other_texts", rated_texts, with_reward)
    made = batches(data, "encoder_decoder")
    try:
        assert next(made).extra["reward"].shape == (8, 3)
    finally:
        made.close()
