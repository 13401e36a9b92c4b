from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf

from t2t.limits import OutOfLimits
from t2t.optim import Ema


@pytest.mark.parametrize("decay", [0.3, 0.9])
def test_the_mean_is_tensorflows(decay):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 3)).astype(np.float32)
    theirs, updates = tf.Variable(values[0]), tf.Variable(0.0)
    averages = tf.train.ExponentialMovingAverage(decay, num_updates=updates)
    averages.apply([theirs])  # the first call makes the mean: it equals the variable
    mean = {"a": jnp.asarray(values[0])}
    for count, value in enumerate(values[1:]):
        updates.assign(count)
        theirs.assign(value)
        averages.apply([theirs])
        mean = Ema(decay=decay).updated(mean, {"a": jnp.asarray(value)}, jnp.int32(count))
        np.testing.assert_allclose(mean["a"], averages.average(theirs), rtol=1e-5, atol=1e-6)


def test_a_long_mean_does_not_lose_digits():
    mean = {"a": jnp.ones(1)}
    moved = Ema(decay=0.99999).updated(mean, {"a": jnp.full(1, 2.0)}, jnp.int32(10**9))
    np.testing.assert_allclose(moved["a"] - 1, 1e-5, rtol=0.02)  # float32 resolves 1e-7 next to 1


def test_a_decay_of_one_is_refused():
    with pytest.raises(OutOfLimits, match=r"decay 1.0 .*Nearest: 0.999999"):
        Ema(decay=1.0)
