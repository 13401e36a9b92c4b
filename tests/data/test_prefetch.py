import time

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from t2t.data import pipeline
from t2t.data.config import Data
from t2t.data.pipeline import batches
from t2t.data.prefetch import DeviceBatches, to_device


@pytest.fixture
def sharding():
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec("data"))


def data(**more):
    return Data(
        **{
            "task": "forty",
            "inputs_length": 12,
            "targets_length": 8,
            "batch_size": 8,
            "shards": 2,
            "shuffle_buffer": 10,
            **more,
        }
    )


def same(one, two):
    return all(
        np.array_equal(np.asarray(x), np.asarray(y))
        for a, b in zip(one, two, strict=True)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_position_is_that_of_what_the_caller_had(tasks, sharding):
    tasks.numbered("forty", 40)
    host = batches(data(), "encoder_decoder")
    want = [next(host) for _ in range(12)]
    placed = DeviceBatches(batches(data(), "encoder_decoder"), sharding, ahead=3)
    got = []
    for _ in range(5):
        _until_made_ahead(placed.host)
        got.append(next(placed))
    assert same(want[:5], got)
    assert all(leaf.sharding.is_equivalent_to(sharding, leaf.ndim) for leaf in jax.tree.leaves(got[0]))
    assert placed._placed  # so that there is something to leave out
    position = placed.position()
    other = DeviceBatches(batches(data(), "encoder_decoder"), sharding)
    for iterator in (other, placed):
        iterator.restore(position)
        assert same(want[5:], [next(iterator) for _ in range(7)])
        iterator.close()


def _until_made_ahead(host):
    """Wait until the thread has filled its queue: what is made ahead must not count."""
    host._start()
    while len(host._made) < pipeline.AHEAD:
        time.sleep(0.005)


def test_what_came_before_the_end_is_handed_out(tasks, sharding):
    tasks.numbered("forty", 40)
    want = list(batches(data(), "encoder_decoder", repeat=False))
    placed = DeviceBatches(batches(data(), "encoder_decoder", repeat=False), sharding)
    assert same(want, list(placed))
    with pytest.raises(StopIteration):
        next(placed)


class Slow:
    """A host iterator that takes its time."""

    def __init__(self, batch):
        self._batch = batch

    def __next__(self):
        time.sleep(0.05)
        return self._batch

    def available(self):
        return False


def test_waiting_is_measured(tasks, sharding):
    tasks.numbered("forty", 40)
    batch = next(batches(data(), "encoder_decoder"))
    placed = DeviceBatches(Slow(batch), sharding)
    for _ in range(3):
        next(placed)
    assert placed.wait_seconds >= 0.15


def test_rows_go_to_their_devices(sharding, tasks):
    tasks.numbered("forty", 40)
    batch = next(batches(data(), "encoder_decoder"))
    placed = to_device(batch, sharding, 8)
    rows = 8 // jax.device_count()
    for shard in placed.targets.addressable_shards:
        assert shard.data.shape[0] == rows
        np.testing.assert_array_equal(shard.data, batch.targets[shard.index])
