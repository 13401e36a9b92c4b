"""Vectors of texts, one text at a time in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t.nn.pooling import pool, unit

SEGMENTS = np.array([[1, 1, 2, 2, 2, 0], [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
ALONE = {
    "mean": lambda x: x.mean(0),
    "first": lambda x: x[0],
    "max": lambda x: x.max(0),
    "last": lambda x: x[-1],
    "weighted_mean": lambda x: np.average(x, axis=0, weights=np.arange(len(x)) + 1),
    "mean_sqrt": lambda x: x.sum(0) / np.sqrt(len(x)),
}


@pytest.mark.parametrize("pooling", ALONE)
def test_each_text_has_the_vector_of_its_own_tokens(pooling):
    hidden = np.random.default_rng(0).normal(size=(3, 6, 4)).astype(np.float32) - 2
    found = pool(jnp.asarray(hidden), SEGMENTS, pooling, slots=3)
    assert found.shape == (3, 3, 4)
    for row in range(3):
        for slot in range(3):
            own = hidden[row][SEGMENTS[row] == slot + 1]
            expected = ALONE[pooling](own) if len(own) else np.zeros(4)
            np.testing.assert_allclose(found[row, slot], expected, atol=1e-6)


def test_a_vector_of_zeros_stays_and_has_no_gradient():
    vectors = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(unit(vectors), [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)
    assert np.isfinite(jax.grad(lambda x: unit(x).sum())(vectors)).all()
