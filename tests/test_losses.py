from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp

from t2t.errors import UserError
from t2t.losses import cross_entropy
from t2t.objectives import CrossEntropy

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(4, 5, 11)).astype(np.float32) * 3
TARGETS = RNG.integers(0, 11, (4, 5))
WEIGHTS = RNG.integers(0, 2, (4, 5)).astype(np.float32)


def test_sums_are_those_of_the_formula():
    sums = cross_entropy(LOGITS, TARGETS, WEIGHTS, CrossEntropy(z_loss=1e-2, label_smoothing=0.1))
    plain = -np.take_along_axis(log_softmax(LOGITS, -1), TARGETS[..., None], -1)[..., 0]
    even = -log_softmax(LOGITS, -1).mean(-1)
    z = 1e-2 * logsumexp(LOGITS, -1) ** 2
    np.testing.assert_allclose(sums.loss, (plain * WEIGHTS).sum(), rtol=1e-5)
    np.testing.assert_allclose(sums.z_loss, (z * WEIGHTS).sum(), rtol=1e-5)
    np.testing.assert_allclose(sums.objective, ((0.9 * plain + 0.1 * even + z) * WEIGHTS).sum(), rtol=1e-5)
    np.testing.assert_allclose(sums.weight, WEIGHTS.sum())
    np.testing.assert_allclose(sums.correct, ((LOGITS.argmax(-1) == TARGETS) * WEIGHTS).sum())


def test_sums_of_parts_add_up():
    whole = cross_entropy(LOGITS, TARGETS, WEIGHTS, CrossEntropy(z_loss=1e-4))
    parts = cross_entropy(LOGITS[:1], TARGETS[:1], WEIGHTS[:1], CrossEntropy(z_loss=1e-4)) + cross_entropy(
        LOGITS[1:], TARGETS[1:], WEIGHTS[1:], CrossEntropy(z_loss=1e-4)
    )
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_the_gradient_is_softmax_minus_target():
    grad = jax.grad(lambda x: cross_entropy(x, TARGETS, WEIGHTS, CrossEntropy()).objective)(jnp.asarray(LOGITS))
    want = (jax.nn.softmax(LOGITS) - jax.nn.one_hot(TARGETS, 11)) * WEIGHTS[..., None]
    np.testing.assert_allclose(grad, want, atol=1e-5)


def test_huge_logits_stay_finite():
    sums = cross_entropy(np.full((1, 1, 3), 1e30, np.float32), np.zeros((1, 1), int), np.ones((1, 1)), CrossEntropy())
    np.testing.assert_allclose(sums.loss, np.log(3), rtol=1e-5)


@pytest.mark.parametrize("bad", [{"z_loss": -1.0}, {"label_smoothing": 1.0}])
def test_values_outside_their_range_are_refused(bad):
    with pytest.raises(UserError, match=str(next(iter(bad.values())))):
        CrossEntropy(**bad)
