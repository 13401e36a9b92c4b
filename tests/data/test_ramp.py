"""Batches that grow: what they consist of, on any number of hosts, and after a position is restored."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from t2t.data.pipeline import batches
from t2t.data.prefetch import DeviceBatches
from t2t.data.ramp import parse
from t2t.errors import UserError

from .test_pipeline import data, mixture, same, take  # noqa: F401

RAMP, SIZES = "0:4,2:8,5:16", [4, 4, 8, 8, 8, 16, 16, 16]


def rows_of(batch):
    return len(batch.targets)


def grown(task):
    return data(task, batch_size=16, batch_ramp=RAMP)


def test_sizes_are_those_of_the_list():
    ramp = parse(RAMP)
    assert [ramp.at(batch) for batch in range(8)] == SIZES
    assert [ramp.up_to(steps) for steps in range(9)] == [sum(SIZES[:steps]) for steps in range(9)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("256", r"not a list of STEP:ROWS. Nearest: 0:64\."),
        ("0:256;5:512", r"not a list of STEP:ROWS"),
        ("0:256,5", r"Nearest: 0:256\."),
        ("5:256,9:512", r"begins at step 5. Nearest: 0:256,9:512\."),
        ("0:256,9:128,10:512", r"must grow from pair to pair. Nearest: 0:256,10:512\."),
        ("0:0,9:128", r"must grow .* Nearest: 9:128"),
    ],
)
def test_what_is_no_ramp_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        data("any", batch_ramp=text)


def test_each_shard_gives_its_rows_in_order(mixture):  # noqa: F811
    """The rows of a shard are those that it gives to batches of one size."""
    got = take(batches(grown(mixture), "encoder_decoder"), 8)
    assert [rows_of(batch) for batch in got] == SIZES
    plain = take(batches(data(mixture, batch_size=4), "encoder_decoder"), sum(SIZES) // 4)
    for shard in range(4):
        ours = np.concatenate([np.split(batch.targets, 4)[shard] for batch in got])
        theirs = np.concatenate([batch.targets[shard : shard + 1] for batch in plain])
        np.testing.assert_array_equal(ours, theirs)


def test_same_global_batches_for_any_number_of_processes_and_from_any_position(mixture):  # noqa: F811
    want = take(batches(grown(mixture), "decoder"), 8)
    hosts = [batches(grown(mixture), "decoder", process_index=i, process_count=2) for i in range(2)]
    position = {}
    for count in range(7):
        parts = take_each(hosts)
        assert same([jax.tree.map(lambda *rows: np.concatenate(rows), *parts)], want[count : count + 1])
        position[count + 1] = hosts[0].position() | hosts[1].position()
    fresh = batches(grown(mixture), "decoder")
    for count in (1, 2, 4, 5, 7):
        fresh.restore(position[count])
        assert same(take(fresh, 8 - count), want[count:])


def take_each(hosts):
    return [next(host) for host in hosts]


def test_batches_on_devices_grow_too_and_their_position_leaves_out_what_was_not_taken(mixture):  # noqa: F811
    mesh = jax.make_mesh((4,), ("data",), devices=jax.devices()[:4], axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    want = take(batches(grown(mixture), "decoder"), 8)
    placed, positions = DeviceBatches(batches(grown(mixture), "decoder"), sharding, ahead=3), []
    for batch, size in zip(want, SIZES, strict=True):
        assert placed.upcoming_rows == size
        assert same([jax.device_get(next(placed))], [batch])
        positions.append(placed.position())
    placed.restore(positions[3])
    assert placed.upcoming_rows == SIZES[4]
    assert same([jax.device_get(next(placed)) for _ in range(4)], want[4:])
    placed.close()


def test_sizes_that_the_shards_do_not_divide_are_refused(mixture):  # noqa: F811
    wrong = replace(grown(mixture), batch_ramp="0:6,2:16")
    with pytest.raises(UserError, match=r"6 rows are not a multiple of --data.shards=4. Nearest: 8\."):
        batches(wrong, "decoder")
