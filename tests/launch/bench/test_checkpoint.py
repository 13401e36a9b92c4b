import jax
import numpy as np
import pytest

from t2t.launch.bench import checkpoint
from tests.launch.bench.workloads import named, workload


def test_rates_are_the_states_bytes_over_the_seconds(tmp_path):
    work = workload("decoder", scratch=str(tmp_path))
    found = named(list(checkpoint.measure(work)))
    size = checkpoint.state_bytes(work.program.abstract_state())
    for name, seconds in (("save, bytes", "save, until written"), ("restore, bytes", "restore")):
        np.testing.assert_allclose(np.array(found[name].samples) * np.array(found[seconds].samples), size)
        assert found[name].details["bytes"] == size
        rate = size / np.median(found[seconds].samples)
        assert found[name].share == pytest.approx(rate / found[name].details["plain"])
    waits, written = found["save, training waits"].samples, found["save, until written"].samples
    assert all(one < other for one, other in zip(waits, written, strict=True))
    assert found["save, bytes"].details["bytes_on_disk"] > size / 2  # noise does not compress
    assert list(tmp_path.iterdir()) == []


def test_a_noisy_state_has_no_zeros_to_compress_and_lies_as_before():
    program = workload("decoder").program
    state = program.create(0)
    noisy = checkpoint.noisy(state)
    assert np.array_equal(noisy.step, state.step)
    moments = [leaf for leaf in jax.tree.leaves(noisy.opt_state) if leaf.ndim > 1]
    assert len(moments) > 2
    assert all(np.all(np.asarray(leaf) != 0) for leaf in moments)
    assert jax.tree.map(lambda leaf: leaf.sharding, noisy) == jax.tree.map(lambda leaf: leaf.sharding, state)
