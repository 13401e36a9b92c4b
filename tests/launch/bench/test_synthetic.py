import jax
import numpy as np
import pytest

from t2t.launch.bench import synthetic
from tests.launch.bench.workloads import workload


@pytest.mark.parametrize("kind", ["decoder", "encoder", "encoder_decoder"])
def test_batches_are_full_rows_that_the_step_takes_the_same_each_time(kind):
    work = workload(kind)
    batch, again, other = (synthetic.batch(work.experiment, seed) for seed in (0, 0, 1))
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), work.program.abstract_batch())
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), batch) == shapes
    jax.tree.map(np.testing.assert_array_equal, batch, again)
    assert not np.array_equal(batch.targets, other.targets)
    assert synthetic.tokens(batch) == synthetic.places(batch) == 8 * (24 if kind == "encoder" else 24 + 16)
    assert synthetic.examples(batch) == 8


def test_an_encoder_predicts_some_of_its_tokens_and_heads_have_targets_of_their_own():
    words = synthetic.batch(workload("encoder").experiment)
    assert 0.05 < words.weights.mean() < 0.3
    label = synthetic.batch(workload("encoder", model={"head": "label", "labels": ("a", "b", "c")}).experiment)
    assert label.targets.max() < 3
    assert np.array_equal(label.weights.sum(axis=1), np.ones(8))
    span = synthetic.batch(workload("encoder", model={"head": "span"}).experiment)
    assert span.targets.max() < 24
    assert np.array_equal(span.weights.sum(axis=1), np.full(8, 2))


def test_packed_examples_count_each():
    from t2t.data.kind_converters import converter

    layout = converter(kind="encoder_decoder", inputs_length=8, targets_length=6)
    example = {"inputs": np.array([5, 6, 7], np.int32), "targets": np.array([8], np.int32)}
    rows = layout.batch([[example, example], [example], []])
    assert synthetic.examples(rows) == 3
    assert synthetic.tokens(rows) == 3 * 4
    assert synthetic.places(rows) == 3 * 14
