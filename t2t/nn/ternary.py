"""Matrix products with ternary weights and eight-bit activations: BitNet b1.58 (Ma et al. 2024, https://arxiv.org/abs/2402.17764).

Parameters stay float32, and each product rounds them. The gradients are those of the product of the rounded operands, with respect to the float operands: the
gradient of the rounding is the identity.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

SMALLEST = 1e-5
"""Least mean of absolute weights, and least maximum of absolute activations (Ma et al. 2024, released code)."""


def ternary(kernel: Float[Array, "I O"]) -> tuple[Float[Array, "I O"], Float[Array, ""]]:
    """Return the weights -1, 0 or 1, and their scale: the mean of the absolute values of the whole kernel."""
    wide = kernel.astype(jnp.float32)
    # One axis after the other: a sum of millions of numbers in a row loses digits.
    factor = 1.0 / jnp.maximum(jnp.mean(jnp.mean(jnp.abs(wide), axis=0)), SMALLEST)
    return jnp.clip(jnp.round(wide * factor), -1.0, 1.0), 1.0 / factor


def eight_bits(x: Float[Array, "N I"]) -> tuple[Float[Array, "N I"], Float[Array, "N 1"]]:
    """Return whole numbers from -128 to 127, and the scale of each row, from the largest absolute value of the row. The output of a token depends on no other."""
    wide = x.astype(jnp.float32)
    factor = 127.0 / jnp.maximum(jnp.max(jnp.abs(wide), axis=-1, keepdims=True), SMALLEST)
    return jnp.clip(jnp.round(wide * factor), -128.0, 127.0), 1.0 / factor


@jax.custom_vjp
def ternary_matmul(x: Float[Array, "N I"], kernel: Float[Array, "I O"]) -> Float[Array, "N O"]:
    """Round both operands, multiply, and return the type of `x`. The sums of whole numbers are exact up to 2^24."""
    return _product(x, *ternary(kernel))


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return ternary_matmul(x, kernel), (x, kernel)


def _backward(saved: tuple[jax.Array, jax.Array], gradient: Float[Array, "N O"]) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    values, scale = eight_bits(x)
    kernel_gradient = jnp.dot((values * scale).astype(x.dtype).T, gradient)
    return _x_gradient(gradient, *ternary(kernel)), kernel_gradient.astype(kernel.dtype)


ternary_matmul.defvjp(_forward, _backward)


@jax.custom_vjp
def rounded_matmul(x: Float[Array, "N I"], weights: Float[Array, "I O"], scale: Float[Array, ""]) -> jax.Array:
    """Return what `ternary_matmul` returns for the kernel that `ternary` rounds to these weights and this scale, [N O]. The weights have no gradient."""
    return _product(x, weights, scale)


def _forward_rounded(x: jax.Array, weights: jax.Array, scale: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return rounded_matmul(x, weights, scale), (weights, scale)


def _backward_rounded(saved: tuple[jax.Array, ...], gradient: Float[Array, "N O"]) -> tuple[jax.Array, None, None]:
    return _x_gradient(gradient, *saved), None, None


rounded_matmul.defvjp(_forward_rounded, _backward_rounded)


def _product(x: Float[Array, "N I"], weights: Float[Array, "I O"], scale: Float[Array, ""]) -> Float[Array, "N O"]:
    values, own = eight_bits(x)
    # Whole numbers up to 256 are exact in bfloat16.
    sums = jnp.dot(values.astype(x.dtype), weights.astype(x.dtype), preferred_element_type=jnp.float32)
    return (sums * (own * scale)).astype(x.dtype)


def _x_gradient(gradient: jax.Array, weights: Float[Array, "I O"], scale: Float[Array, ""]) -> Float[Array, "N I"]:
    return jnp.dot(gradient, (weights * scale).astype(gradient.dtype).T)
