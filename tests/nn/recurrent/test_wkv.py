"""RWKV-4's WKV operator: equal to the sums of the paper in float64 for any chunk size, stable for large keys, and its gradients."""

import jax
import numpy as np
import pytest

from t2t.nn.recurrent.wkv import empty, wkv, wkv_step
from tests.models.tiny import quick_jit

RANDOM = np.random.default_rng(0)
ROWS, LENGTH, WIDTH = 3, 13, 5
SEGMENTS = np.array([[1] * 4 + [2] * 6 + [0] * 3, [0] * 2 + [1] * 11, [1] * 13])
KEY, VALUE = RANDOM.normal(size=(2, ROWS, LENGTH, WIDTH)).astype(np.float32)
DECAY = np.exp(RANDOM.normal(size=WIDTH)).astype(np.float32)
BONUS = RANDOM.normal(size=WIDTH).astype(np.float32)


def summed(key, value, segments):
    """Return the averages as sums over all earlier tokens (Peng et al. 2023, equation 19), in float64."""
    key, value = key.astype(np.float64), value.astype(np.float64)
    out = np.zeros(key.shape)
    for row, at in np.argwhere(segments > 0):
        before = [i for i in range(at) if segments[row, i] == segments[row, at]]
        exponents = [*(key[row, i] - (at - 1 - i) * DECAY for i in before), key[row, at] + BONUS]
        largest = np.max(exponents, axis=0)
        weights = [np.exp(exponent - largest) for exponent in exponents]
        values = [*(value[row, i] for i in before), value[row, at]]
        out[row, at] = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    return out


@pytest.mark.parametrize("size", [1.0, 300.0], ids=["keys of size 1", "keys that overflow an exponential"])
@pytest.mark.parametrize("chunk", [1, 4, 32])
def test_averages_are_the_sums_of_the_paper(chunk, size):
    found, _ = quick_jit(wkv, static_argnums=5)(size * KEY, VALUE, DECAY, BONUS, SEGMENTS, chunk)
    real = SEGMENTS > 0
    np.testing.assert_allclose(found[real], summed(size * KEY, VALUE, SEGMENTS)[real], atol=1e-5)
    assert np.isfinite(found).all()


def test_chunks_and_steps_give_the_same_sums_and_gradients():
    weights = RANDOM.normal(size=KEY.shape).astype(np.float32) * (SEGMENTS > 0)[..., None]

    def loss(key, value, decay, bonus, chunk):
        out, sums = wkv(key, value, decay, bonus, SEGMENTS, chunk)
        return (out * weights).sum(), (out, sums)

    run = quick_jit(jax.grad(loss, argnums=(0, 1, 2, 3), has_aux=True), static_argnums=4)
    (one, (_, last)), (other, _) = (run(KEY, VALUE, DECAY, BONUS, chunk) for chunk in (1, 5))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one, other)
    assert all(np.isfinite(leaf).all() and np.abs(leaf).max() > 1e-3 for leaf in one)
    assert not one[0][SEGMENTS == 0].any()

    sums, step = empty(1, WIDTH), quick_jit(wkv_step)
    for at in range(LENGTH):
        out, sums = step(KEY[2:, at], VALUE[2:, at], DECAY, BONUS, sums)
        np.testing.assert_allclose(out[0], summed(KEY, VALUE, SEGMENTS)[2, at], atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b[2], atol=1e-5), sums, last)


def test_gradients_are_those_of_the_sums():
    def loss(key):
        return float((summed(key, VALUE, SEGMENTS) ** 2).sum())

    ours = quick_jit(jax.grad(lambda key: (wkv(key, VALUE, DECAY, BONUS, SEGMENTS, 4)[0] ** 2)[SEGMENTS > 0].sum()))
    found = ours(KEY)
    for place in [(0, 0, 1), (0, 5, 2), (1, 7, 0), (2, 12, 3)]:
        shift = np.zeros(KEY.shape)
        shift[place] = 1e-5
        np.testing.assert_allclose(found[place], (loss(KEY + shift) - loss(KEY - shift)) / 2e-5, rtol=1e-3, atol=1e-4)
