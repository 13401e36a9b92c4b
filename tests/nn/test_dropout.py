"""Dropout's masks are as good as independent draws, and reproducible."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2

from t2t.nn.dropout import Keys, dropout, keep


def masks(count, shape, probability):
    keys = jax.random.split(jax.random.key(0), count)
    return np.asarray(jax.vmap(lambda key: keep(key, probability, shape))(keys))


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_masks_have_their_mean_by_key_by_row_and_by_column(probability):
    drawn = masks(64, (64, 64), probability)
    deviation = (probability * (1 - probability)) ** 0.5
    for axes, size in (((0, 1, 2), 64**3), ((1, 2), 64**2), ((0, 2), 64**2), ((0, 1), 64**2)):
        assert np.abs(drawn.mean(axes) - probability).max() < 5 * deviation / size**0.5


def test_neighbours_in_every_direction_are_independent():
    drawn = masks(64, (64, 64), 0.5).astype(float) * 2 - 1
    for step in (1, 2, 3, 8, 16, 32):
        for axis in range(3):
            assert abs((drawn * np.roll(drawn, step, axis)).mean()) < 5 / 64**1.5


def test_patterns_of_eight_neighbours_are_even():
    for axis in (0, 1, 2):
        drawn = np.moveaxis(masks(64, (64, 64), 0.5), axis, -1).reshape(-1, 8)
        counts = np.bincount(np.packbits(drawn, axis=-1)[:, 0], minlength=256)
        expected = counts.sum() / 256
        assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(0.9999, 255)


def test_dropout_scales_what_it_keeps():
    x = jnp.ones((400, 400))
    y = dropout(x, 0.25, jax.random.key(0))
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    assert float(jnp.mean(y)) == pytest.approx(1.0, abs=0.01)


def test_nothing_without_a_key_or_a_rate():
    x = jnp.ones((4, 4))
    np.testing.assert_array_equal(dropout(x, 0.25, None), x)
    np.testing.assert_array_equal(dropout(x, 0.0, jax.random.key(0)), x)


def test_the_mask_does_not_depend_on_how_the_array_is_spread():
    key, shape = jax.random.key(4), (8, 16, 24)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    apart = jax.jit(lambda: keep(key, 0.3, shape), out_shardings=spread)()
    np.testing.assert_array_equal(apart, keep(key, 0.3, shape))


@pytest.mark.parametrize("old", [True, False])
def test_typed_and_raw_keys_and_any_rank(old):
    key = jax.random.PRNGKey(3) if old else jax.random.key(3)
    for shape in ((), (5,), (2, 3, 4, 5)):
        assert keep(key, 0.5, shape).shape == shape
    np.testing.assert_array_equal(keep(key, 0.5, (9, 9)), keep(jax.random.key(3), 0.5, (9, 9)))


def test_keys_never_repeat_and_are_the_same_each_time():
    one, two = Keys(jax.random.key(0)), Keys(jax.random.key(0))
    drawn = [jax.random.key_data(one.next()).tolist() for _ in range(20)]
    assert drawn == [jax.random.key_data(two.next()).tolist() for _ in range(20)]
    assert len({tuple(key) for key in drawn}) == 20
