"""GPTQ (Frantar et al. 2022, https://arxiv.org/abs/2210.17323): integers that keep the outputs of a linear layer, given the inputs that it has on some data."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from t2t.nn.weights.formats import FORMATS
from t2t.nn.weights.integers import Integers
from t2t.nn.weights.packing import GROUP, grouped

CALIBRATED = tuple(name for name, format in FORMATS.items() if isinstance(format, Integers))
"""The formats that can be calibrated."""
DAMPING = 0.01
"""Added to the diagonal of the sum of the inputs, as a share of the mean of the diagonal (section 3.3 of the paper)."""

_product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


@partial(jax.jit, static_argnames=("format", "ordered"))
def calibrated(
    format: str, kernel: Float[Array, "I O"], gram: Float[Array, "I I"], *, ordered: bool = False
) -> dict[str, jax.Array]:
    """Return the parts that store a kernel, so that the squared error of the layer's outputs is small.

    The inputs are rounded one after the other. The kernel's values of the inputs that are not rounded yet change so that they make up for the error as far as they
    can. The scale of a group of inputs is that of its values at the time when its first input is rounded.

    gram: the sum of x x^T over inputs x, see `t2t.nn.linear_inputs`.
    ordered: round the inputs with the largest squares first, instead of in their order. The scales are then those of the given kernel.
    """
    integers = FORMATS[format]
    assert isinstance(integers, Integers), f"the codes of {format} are no integers"
    inputs, outputs = kernel.shape
    weight = kernel.astype(jnp.float32)
    size, largest = integers.group_size(inputs), float(integers.largest)
    order = jnp.argsort(-jnp.diagonal(gram)) if ordered else jnp.arange(inputs)
    renewed = integers.per_group and not ordered
    static = integers.scales(grouped(weight.T, size))  # [O G]
    scale_of = jnp.repeat(static.T, size, axis=0)[:inputs]  # [I O]
    padded = -(-inputs // GROUP) * GROUP
    rest = ((0, padded - inputs), (0, 0))
    # Padding is at the end, and no error is spread to it: its part of the factor is the identity.
    factor = jnp.eye(padded).at[:inputs, :inputs].set(_factor(gram[order][:, order]))
    weight, scale_of = jnp.pad(weight[order], rest), jnp.pad(scale_of[order], rest)

    def block(number: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        weight, codes, scale_of = carry
        start = number * GROUP
        values, scales = (jax.lax.dynamic_slice_in_dim(part, start, GROUP) for part in (weight, scale_of))
        if renewed:
            scales = jnp.broadcast_to(integers.scales(values.T), scales.shape)
        rows = jax.lax.dynamic_slice_in_dim(factor, start, GROUP)
        own = jax.lax.dynamic_slice_in_dim(rows, start, GROUP, axis=1)

        def one(index: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            values, found, errors = carry
            value, scale = values[index], scales[index]
            code = jnp.clip(jnp.round(value / jnp.where(scale == 0, 1.0, scale)), -largest, largest)
            error = (value - code * scale) / own[index, index]
            values = values - own[index][:, None] * error
            return values, found.at[index].set(code), errors.at[index].set(error)

        empty = jnp.zeros_like(values)
        values, found, errors = jax.lax.fori_loop(0, GROUP, one, (values, empty, empty))
        later = jnp.where(jnp.arange(padded) >= start + GROUP, rows, 0.0)
        weight = weight - _product(later.T, errors)
        return (
            weight,
            jax.lax.dynamic_update_slice_in_dim(codes, found, start, 0),
            jax.lax.dynamic_update_slice_in_dim(scale_of, scales, start, 0),
        )

    start = (weight, jnp.zeros_like(weight), scale_of)
    _, codes, scale_of = jax.lax.fori_loop(0, padded // GROUP, block, start)
    in_place = jnp.zeros((inputs, outputs)).at[order].set(codes[:inputs])
    return integers.stored(in_place.T, scale_of[::GROUP].T if renewed else static)


@jax.jit
def output_error(
    kernel: Float[Array, "I O"], other: Float[Array, "I O"], gram: Float[Array, "I I"]
) -> Float[Array, ""]:
    """Return the squared error of the outputs of a layer with another kernel, divided by the squares of its outputs."""
    difference = other - kernel
    squares = jnp.sum(kernel * _product(gram, kernel))
    return jnp.sum(difference * _product(gram, difference)) / jnp.where(squares == 0, 1.0, squares)


def _factor(gram: Float[Array, "I I"]) -> Float[Array, "I I"]:
    """Return the upper triangular U with U^T U = H^-1, where H is the damped `gram`.

    With H = R R^T for an upper triangular R, U is R^-1. R is the Cholesky factor of H with its rows and columns reversed.
    """
    mean = jnp.mean(jnp.diagonal(gram))
    # Without any input, the kernel is rounded to the nearest values.
    damped = gram + jnp.where(mean == 0, 1.0, DAMPING * mean) * jnp.eye(len(gram))
    upper = jnp.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1]
    return solve_triangular(upper, jnp.eye(len(gram)), lower=False)
