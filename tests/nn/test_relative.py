"""Relative position buckets against the paper's formula, and the bias laid out from them."""

import math
from decimal import Decimal, getcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t.nn.initializers import Normal
from t2t.nn.parameters import Definition
from t2t.nn.relative import RelativeBias, bucket, thresholds

getcontext().prec = 60


def formula(relative: int, *, buckets: int, max_distance: int, bidirectional: bool) -> int:
    """One distance (key less query) by the formula of T5, its logarithms to 60 digits."""
    offset = 0
    if bidirectional:
        buckets //= 2
        offset = buckets if relative > 0 else 0
        distance = abs(relative)
    else:
        distance = max(-relative, 0)
    exact = buckets // 2
    if distance < exact:
        return offset + distance
    ratio = (Decimal(distance) / exact).ln() / (Decimal(max_distance) / exact).ln()
    # A ratio that is a whole number but for the last digit is that number.
    return offset + min(exact + math.floor(ratio * (buckets - exact) + Decimal(10) ** -40), buckets - 1)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (8, 20), (16, 17), (64, 1000)])
def test_buckets_equal_the_formula(buckets, max_distance, bidirectional):
    distances = list(range(-3 * max_distance, 3 * max_distance))
    options = {"buckets": buckets, "max_distance": max_distance, "bidirectional": bidirectional}
    ours = bucket(jnp.asarray(distances), **options)
    np.testing.assert_array_equal(ours, [formula(d, **options) for d in distances])


def test_known_edges_of_t5():
    # 8 exact buckets of each sign, then 8, 9 (12), ... up to 128 (91 is the last edge)
    assert thresholds(16, 128) == (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91)
    ours = bucket(jnp.array([0, -1, 1, -128, 128, 10_000]), buckets=32, max_distance=128, bidirectional=True)
    assert ours.tolist() == [0, 1, 17, 15, 31, 31]
    ahead = bucket(jnp.array([5, 0, -1, -200]), buckets=32, max_distance=128, bidirectional=False)
    assert ahead.tolist() == [0, 0, 1, 31]


@pytest.fixture(params=[True, False], ids=["bidirectional", "causal"])
def relative(request):
    definition = Definition(RelativeBias(3, buckets=8, max_distance=20, bidirectional=request.param, init=Normal(1.0)))
    params = definition.init(jax.random.key(0))
    return definition, params


def direct(module, start, rows, columns):
    """Look up every pair by itself."""
    distance = jnp.arange(columns)[None, :] - (start + jnp.arange(rows))[:, None]
    index = bucket(distance, buckets=8, max_distance=20, bidirectional=module.bidirectional)
    return jnp.moveaxis(module.table[...][index], -1, 0)[None]


@pytest.mark.slow
@pytest.mark.parametrize(("start", "rows", "columns"), [(0, 6, 6), (4, 5, 30), (25, 7, 2), (0, 1, 1)])
def test_a_block_is_every_pair_looked_up(relative, start, rows, columns):
    definition, params = relative
    weights = jax.random.normal(jax.random.key(1), (1, 3, rows, columns))

    def folded(params):
        return jnp.sum(weights * definition.bind(params).block(jnp.int32(start), rows, columns))

    def looked_up(params):
        return jnp.sum(weights * direct(definition.bind(params), start, rows, columns))

    block = definition.bind(params).block(start, rows, columns)
    np.testing.assert_array_equal(block, direct(definition.bind(params), start, rows, columns))
    ours, theirs = jax.jit(jax.grad(folded))(params), jax.jit(jax.grad(looked_up))(params)
    np.testing.assert_allclose(ours["table"], theirs["table"], rtol=1e-5, atol=1e-5)


def test_a_step_is_a_row_of_the_block(relative):
    definition, params = relative
    module = definition.bind(params)
    whole = module.block(0, 9, 9)
    rows = jnp.array([0, 8, 3])
    step = module.at(rows, jnp.arange(9)[None])
    np.testing.assert_array_equal(step[:, :, 0], whole[0][:, rows].swapaxes(0, 1))
    # The keys of a ring buffer are in another order for each row.
    keys = jnp.array([[2, 0, 1], [6, 7, 8], [3, 1, 2]])
    some = module.at(rows, keys)[:, :, 0]
    for row, index in enumerate([0, 8, 3]):
        np.testing.assert_array_equal(some[row], whole[0][:, index, keys[row]])
