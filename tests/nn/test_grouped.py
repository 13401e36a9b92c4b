"""Products of sorted rows with the matrix of their group: in blocks as on accelerators, whatever the sizes of groups."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t.nn.moe.grouped import BLOCKS, grouped_product
from t2t.nn.moe.moves import moved
from t2t.plan import flops
from t2t.sharding import assume_platform
from tests.models.tiny import quick_jit

RANDOM = np.random.default_rng(0)
INPUTS, OUTPUTS = 3, 2
LARGE, SMALL = BLOCKS[0], BLOCKS[-1]


def drawn(*shape):
    return jnp.asarray(RANDOM.normal(size=shape), jnp.float32)


@pytest.mark.parametrize(
    "sizes",
    [(0, LARGE + SMALL + 1, 5, 0, LARGE, 1), (3, 0, 4), (0, 0, 0), (SMALL, 0, SMALL)],
    ids=["large blocks", "less than a block", "none", "whole blocks"],
)
def test_each_row_meets_the_matrix_of_its_group_and_no_other_has_a_gradient(sizes):
    inside, behind = sum(sizes), 2
    rows, kernels = drawn(inside + behind, INPUTS), drawn(len(sizes), INPUTS, OUTPUTS)
    weights = drawn(inside + behind, OUTPUTS).at[inside:].set(0)
    group = np.repeat(np.arange(len(sizes)), sizes)

    def blocks(rows, kernels):
        return grouped_product(rows, kernels, jnp.array(sizes))

    def one_by_one(rows, kernels):
        found = jnp.einsum("ri,rio->ro", rows[:inside], kernels[group])
        return jnp.pad(found, ((0, behind), (0, 0)))

    def all_of(product):
        def value(rows, kernels):
            out = product(rows, kernels)
            return jnp.sum(out * weights), out

        return quick_jit(jax.grad(value, argnums=(0, 1), has_aux=True))(rows, kernels)

    (found, out), (wanted, wanted_out) = all_of(blocks), all_of(one_by_one)
    np.testing.assert_allclose(out[:inside], wanted_out[:inside], atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), found, wanted)


def test_on_accelerators_it_is_one_ragged_product_with_the_same_flops():
    rows, kernels, sizes = drawn(9, INPUTS), drawn(4, INPUTS, OUTPUTS), jnp.array([2, 0, 3, 4])

    def gradient(rows, kernels):
        return jax.grad(lambda rows, kernels: grouped_product(rows, kernels, sizes).sum(), argnums=(0, 1))(
            rows, kernels
        )

    with assume_platform("gpu"):
        accelerated = flops.dots(gradient, rows, kernels)
        assert "ragged_dot" in str(jax.make_jaxpr(lambda *given: gradient(*given))(rows, kernels))
    assert flops.dots(lambda *given: gradient(*given), rows, kernels) == accelerated
    # The product, and the gradients of both operands.
    assert accelerated == {"float32": 3 * 2 * 9 * INPUTS * OUTPUTS}


def test_moved_rows_and_their_gradients():
    x, source, target = drawn(3, 2), jnp.array([2, 9, 0]), jnp.array([2, 7, 0])
    np.testing.assert_array_equal(moved(x, source, target), [x[2], [0, 0], x[0]])
    weights = drawn(3, 2)
    found = jax.grad(lambda x: jnp.sum(moved(x, source, target) * weights))(x)
    np.testing.assert_array_equal(found, [weights[2], [0, 0], weights[0]])
