"""An objective of a user's own that wants further arrays of its task: divided over a mesh, in microbatches, resumed."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio
import tensorflow as tf

from t2t import models, tasks
from t2t.checkpoint import CheckpointConfig
from t2t.data import Data
from t2t.data.pipeline import batches, evaluation_batches
from t2t.data.prefetch import DeviceBatches
from t2t.errors import UserError
from t2t.losses import LossSums
from t2t.objectives import Objective
from t2t.optim import AdamW, Constant
from t2t.sharding import MeshConfig
from t2t.train.evaluation import Evaluation, Evaluator
from t2t.train.experiment import Experiment
from t2t.train.loop import train
from t2t.train.program import Program
from t2t.train.run import RunRecord, SavedRun, open_run
from t2t.types import Extra
from t2t.vocabularies import Bytes

TEXTS = ["one", "three", "fourteen", "a", "letters", "of words", "and so on", "the end"] * 3


@dataclass(frozen=True, kw_only=True)
class Rewarded(Objective):
    """Cross-entropy, each target by its advantage and its example's reward."""

    needs = frozenset({"predict"})
    extras = (Extra(name="reward", slots=3), Extra(name="advantage", per="target"))

    def loss(self, model, params, batch, dropout_key=None):
        scores = jax.nn.log_softmax(model.logits(params, batch, dropout_key=dropout_key))
        plain = -jnp.take_along_axis(scores, batch.targets[..., None], axis=-1)[..., 0] * batch.weights
        slot = jnp.maximum(batch.decoder.segments - 1, 0)
        reward = jnp.take_along_axis(batch.extra["reward"], slot, axis=1) * batch.weights
        return LossSums(
            objective=jnp.sum(plain * reward * batch.extra["advantage"]),
            loss=jnp.sum(plain),
            weight=jnp.sum(batch.weights),
            extra={"reward": (jnp.sum(reward), jnp.sum(batch.weights))},
        )


EXPERIMENT = Experiment(
    model=models.gpt.gpt(num_layers=1, d_model=16, num_heads=2, d_ff=16, vocab_size=384, max_length=48, dropout=0.0),
    data=Data(task="rewarded_texts", inputs_length=16, targets_length=16, batch_size=8, shards=2, shuffle_buffer=8),
    optimizer=AdamW(schedule=Constant(peak=1e-2)),
    objective=Rewarded(),
    steps=4,
    log_every=1,
    checkpoint=CheckpointConfig(every=2),
    evaluation=Evaluation(split=None),
)


@pytest.fixture(scope="module", autouse=True)
def rewarded_texts():
    """Register the task: a reward for each text, and an advantage for each of its target's tokens."""

    def read(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        rewards = np.linspace(-1, 1, len(TEXTS), dtype=np.float32)
        return tf.data.Dataset.from_tensor_slices({"inputs": TEXTS, "targets": TEXTS[::-1], "reward": rewards})

    def advantages(dataset: tf.data.Dataset) -> tf.data.Dataset:
        return dataset.map(lambda x: {**x, "advantage": tf.cast(tf.range(tf.size(x["targets"])), tf.float32) / 10 + 1})

    text, numbers = seqio.ByteVocabulary(), seqio.PassThroughVocabulary(1)
    seqio.TaskRegistry.add(
        "rewarded_texts",
        source=seqio.FunctionDataSource(read, ("train", "validation")),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos, advantages],
        output_features={
            "inputs": seqio.Feature(text, add_eos=False),
            "targets": seqio.Feature(text),
            "reward": seqio.Feature(numbers, add_eos=False, rank=0, dtype=tf.float32),
            "advantage": seqio.Feature(numbers, add_eos=False, dtype=tf.float32),
        },
    )
    yield
    seqio.TaskRegistry.remove("rewarded_texts")


def trained(mesh: MeshConfig, devices: int, microbatches: int):
    """Return the parameters and the metrics of three steps."""
    experiment = replace(EXPERIMENT, mesh=mesh, microbatches=microbatches)
    program = Program.of(experiment, mesh.build(jax.devices()[:devices]))
    host = batches(experiment.resolved_data(), "decoder", convert=experiment.objective.converter)
    data = DeviceBatches(host, program.batch_sharding(), extra=program.extra_shardings(host.layout))
    state, metrics = program.create(0), []
    step = program.step()
    try:
        for _ in range(3):
            batch = next(data)
            assert jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), batch) == jax.tree.map(
                lambda x: (x.shape, x.dtype, x.sharding), program.abstract_batch()
            )
            state, made = step(state, batch)
            metrics.append({name: float(made[name]) for name in ("loss", "reward", "grad_norm")})
    finally:
        data.close()
    return jax.device_get(state.params), metrics


@pytest.mark.slow
def test_a_mesh_and_microbatches_change_nothing():
    alone, expected = trained(MeshConfig(data=1), 1, 1)
    spread, found = trained(MeshConfig(data=2, fsdp=2), 4, 2)
    for one, other in zip(expected, found, strict=True):
        assert one["reward"] != 0
        assert other == pytest.approx(one, rel=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), alone, spread)


def test_an_evaluation_reports_the_objective():
    model, data = EXPERIMENT.model.build(), EXPERIMENT.resolved_data()
    params = jax.jit(model.init)(jax.random.key(0))
    evaluator = Evaluator(model, Evaluation(examples=5, batch_size=2, samples=0), data, Rewarded())
    (result,) = evaluator.evaluate(params)
    sizes = np.array([len(text) + 1 for text in TEXTS[::-1][:5]])
    rewards = np.linspace(-1, 1, len(TEXTS), dtype=np.float32)[:5]
    assert result.metrics["reward"] == pytest.approx(np.sum(rewards * sizes) / np.sum(sizes), rel=1e-5)
    apart = [
        Rewarded().loss(model, params, batch)
        for batch, _ in evaluation_batches(
            replace(data, split="validation"), "decoder", 1, examples=5, convert=Rewarded().converter
        )
    ]
    expected = sum(float(sums.objective) for sums in apart) / sizes.sum()
    assert result.metrics["objective"] == pytest.approx(expected, rel=1e-4)
    (plain,) = Evaluator(model, Evaluation(examples=5, batch_size=2, samples=0), data).evaluate(params)
    assert result.metrics.keys() - plain.metrics.keys() == {"objective", "reward"}
    assert {name: result.metrics[name] for name in plain.metrics} == plain.metrics


def test_a_task_without_the_features_is_evaluated_without_the_objective(caplog):
    model, data = EXPERIMENT.model.build(), EXPERIMENT.resolved_data()
    evaluation = Evaluation(tasks=(tasks.find("reverse_words").name,), examples=2, batch_size=2, length=4)
    (result,) = Evaluator(model, evaluation, data, Rewarded()).evaluate(jax.jit(model.init)(jax.random.key(0)))
    assert "objective" not in result.metrics
    assert "the objective is not evaluated, it needs advantage, reward" in caplog.text


class Silent:
    def __getattr__(self, name):
        return lambda *args, **kwargs: None


@pytest.mark.slow
def test_a_resumed_run_is_bitwise_that_of_one_go(tmp_path):
    whole, again = tmp_path / "whole", tmp_path / "again"
    record = RunRecord(recipe="rewarded", experiment=EXPERIMENT, vocabulary=Bytes())
    train(whole, open_run(whole, record), Silent())
    shutil.copytree(whole, again)
    shutil.rmtree(again / "checkpoints" / "4")
    assert train(again, open_run(again, record), Silent()).step == 4
    jax.tree.map(np.testing.assert_array_equal, SavedRun.load(whole, 4).params(), SavedRun.load(again, 4).params())
    assert SavedRun.load(again).experiment.objective == Rewarded()


def test_a_task_without_a_wanted_feature_is_refused():
    data = replace(EXPERIMENT.resolved_data(), task=tasks.find("reverse_words").name)
    with pytest.raises(UserError, match=r"'reverse_words' has no feature 'reward', which the objective needs"):
        batches(data, "decoder", convert=Rewarded().converter)


@pytest.mark.parametrize("extra", [Extra(name="reward", shape=(2,)), Extra(name="reward", per="target")])
def test_a_feature_of_another_shape_is_refused(extra):
    with pytest.raises(UserError, match=r"feature 'reward' must be float32 .* it is float32 of shape \(\)"):
        batches(EXPERIMENT.resolved_data(), "decoder", convert=lambda rows: replace(rows, extras=(extra,)))
