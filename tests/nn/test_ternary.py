"""Ternary weights and eight-bit activations: the formulas of the paper, and gradients through the rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t.nn.parameters import Definition
from t2t.nn.ternary import eight_bits, ternary, ternary_matmul
from t2t.nn.weights import QuantizedKernel, dequantized, quantized
from tests.models.tiny import quick_jit

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(5, 12)).astype(np.float32)
KERNEL = RANDOM.normal(size=(12, 7)).astype(np.float32)


def rounded(x, kernel):
    """Return both operands rounded (Ma et al. 2024, equations 1 to 3, with one scale for each token), in float64."""
    x, kernel = x.astype(np.float64), kernel.astype(np.float64)
    mean = np.abs(kernel).mean()
    largest = np.abs(x).max(axis=-1, keepdims=True)
    return np.round(x * 127 / largest) * largest / 127, np.clip(np.round(kernel / mean), -1, 1) * mean


def test_products_are_those_of_the_rounded_operands():
    x, kernel = rounded(X, KERNEL)
    np.testing.assert_allclose(quick_jit(ternary_matmul)(X, KERNEL), x @ kernel, rtol=1e-5, atol=1e-5)
    values, scale = ternary(jnp.asarray(KERNEL))
    assert set(np.unique(values)) == {-1.0, 0.0, 1.0}
    np.testing.assert_allclose(scale, np.abs(KERNEL).mean(), rtol=1e-6)


def test_gradients_pass_through_the_rounding():
    weights = RANDOM.normal(size=(5, 7)).astype(np.float32)
    found = quick_jit(jax.grad(lambda x, k: (ternary_matmul(x, k) * weights).sum(), argnums=(0, 1)))(X, KERNEL)
    x, kernel = rounded(X, KERNEL)
    np.testing.assert_allclose(found[0], weights @ kernel.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[1], x.T @ weights, rtol=1e-5, atol=1e-5)


def test_a_token_does_not_depend_on_others_and_the_largest_activation_is_127():
    values, scale = eight_bits(jnp.asarray(X))
    assert (np.abs(values).max(axis=-1) == 127).all()
    np.testing.assert_allclose(scale[:, 0] * 127, np.abs(X).max(axis=-1), rtol=1e-6)
    np.testing.assert_array_equal(ternary_matmul(X[2:3], KERNEL)[0], ternary_matmul(X, KERNEL)[2])


def test_zeros_and_bfloat16_are_exact():
    assert not np.asarray(ternary_matmul(np.zeros_like(X), np.zeros_like(KERNEL))).any()
    narrow = ternary_matmul(jnp.asarray(X, jnp.bfloat16), KERNEL)
    assert narrow.dtype == jnp.bfloat16
    wide = ternary_matmul(jnp.asarray(X, jnp.bfloat16).astype(jnp.float32), KERNEL)
    np.testing.assert_array_equal(narrow, wide.astype(jnp.bfloat16))


def test_a_kernel_of_ternary_weights_is_rounded_to_itself():
    weights = RANDOM.integers(-1, 2, (12, 7)).astype(np.float32)
    share = np.abs(weights).mean()
    values, scale = ternary(jnp.asarray(weights * 0.3 / share))
    np.testing.assert_array_equal(values, weights)
    np.testing.assert_allclose(scale, 0.3, rtol=1e-6)


@pytest.mark.parametrize("inputs", [12, 10], ids=["whole bytes", "a byte in part"])
def test_a_kernel_in_two_bits_gives_the_same_products_and_gradients(inputs):
    x, kernel = X[:, :inputs], jnp.asarray(KERNEL[:inputs])
    parts = quantized("ternary", kernel)
    assert (parts["codes"].shape, parts["codes"].dtype) == ((7, 3), jnp.uint8)
    stored = Definition(QuantizedKernel("ternary", inputs, 7, ("embed", "mlp")))
    weights = RANDOM.normal(size=(5, 7)).astype(np.float32)

    def both(multiply, x):
        return multiply(x), jax.grad(lambda x: (multiply(x) * weights).sum())(x)

    one = quick_jit(lambda x: both(lambda x: stored.bind(parts).product(x, ternary_matmul), x))(x)
    other = quick_jit(lambda x: both(lambda x: ternary_matmul(x, kernel), x))(x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), one, other)
    again = quantized("ternary", dequantized("ternary", parts, inputs))
    np.testing.assert_array_equal(again["codes"], parts["codes"])
    np.testing.assert_allclose(again["scale"], parts["scale"], rtol=1e-6)


def test_each_kernel_of_a_stack_has_a_scale():
    parts = quantized("ternary", jnp.stack([KERNEL, 2 * KERNEL]))
    np.testing.assert_array_equal(parts["codes"][0], parts["codes"][1])
    np.testing.assert_allclose(parts["scale"], [np.abs(KERNEL).mean(), 2 * np.abs(KERNEL).mean()], rtol=1e-6)
