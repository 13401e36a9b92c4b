"""Disentangled positions: buckets are those of the published formula, and the bias is the sum of gathered products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t.errors import UserError
from t2t.nn.disentangled import Disentangled, position_bias
from tests.models.tiny import quick_jit

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(("buckets", "longest"), [(256, 512), (32, 128), (9, 40), (4, 8)])
def test_rows_of_the_table_are_those_of_the_published_formula(buckets, longest):
    distance = np.arange(-3 * longest, 3 * longest + 1)
    middle, size = buckets // 2, np.abs(distance)
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.ceil(np.log(size / middle) / np.log((longest - 1) / middle) * (middle - 1))
        bucket = np.where(size <= middle, distance, np.sign(distance) * (steps + middle))
    wanted = np.clip(bucket + buckets, 0, 2 * buckets - 1)
    found = Disentangled(buckets=buckets, max_distance=longest).index(jnp.asarray(distance))
    np.testing.assert_array_equal(found, wanted)


def test_without_buckets_each_distance_has_a_row():
    found = Disentangled(buckets=None, max_distance=4).index(jnp.arange(-6, 7))
    np.testing.assert_array_equal(found, [0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 7])


def gathered(positions, queries, keys, position_keys, position_queries):
    """Return the bias as the paper defines it: one gathered product for each query and key."""
    length = queries.shape[1]
    index = positions.index(jnp.arange(length)[:, None] - jnp.arange(length))
    to_position = jnp.einsum("bqhd,qkhd->bhqk", queries, position_keys[index])
    return to_position + jnp.einsum("bkhd,qkhd->bhqk", keys, position_queries[index])


def test_the_bias_and_its_gradients_are_those_of_gathered_products_also_by_blocks():
    positions, length = Disentangled(buckets=6, max_distance=9), 11
    arrays = [RANDOM.normal(size=(2, length, 3, 4)).astype(np.float32) for _ in range(2)]
    arrays += [RANDOM.normal(size=(12, 3, 4)).astype(np.float32) for _ in range(2)]
    target = RANDOM.normal(size=(2, 3, length, length)).astype(np.float32)

    def whole(*arrays):
        return position_bias(positions, 0, *arrays)

    def blocks(queries, *others):
        parts = [position_bias(positions, at, queries[:, at : at + 4], *others) for at in range(0, length, 4)]
        return jnp.concatenate(parts, axis=2)

    def results(bias):
        def function(*arrays):
            value = bias(*arrays)
            return jnp.sum(value * target), value

        (_, value), gradients = quick_jit(jax.value_and_grad(function, argnums=(0, 1, 2, 3), has_aux=True))(*arrays)
        return value, *gradients

    wanted = results(lambda *arrays: gathered(positions, *arrays))
    for bias in (whole, blocks):
        for found, one in zip(results(bias), wanted, strict=True):
            np.testing.assert_allclose(found, one, atol=1e-4)


def test_positions_that_cannot_be_are_refused():
    with pytest.raises(UserError, match=r"content_to_position and .* are False.*Nearest: True"):
        Disentangled(content_to_position=False, position_to_content=False)
    with pytest.raises(UserError, match=r"max_distance is 129; .*disentangled.buckets = 256 .*Nearest: 130"):
        Disentangled(max_distance=129)
