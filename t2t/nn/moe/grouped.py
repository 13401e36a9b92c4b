"""Products of rows, sorted by group, with the matrix of their group, such as those of tokens with the kernel of their expert (Gale et al. 2023, "MegaBlocks",
https://arxiv.org/abs/2211.15841)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from t2t.sharding import platform

BLOCKS = (512, 256, 128, 64)
"""Rows of a block on a CPU. Large blocks read the matrix of a group, and write its gradient, seldom. Small ones take the rest of a group, so few rows of its
neighbour are computed too."""


def grouped_product(
    rows: Float[Array, "R I"], kernels: Float[Array, "G I O"], sizes: Int[Array, "G"]
) -> Float[Array, "R O"]:
    """Return the product of each row with the matrix of its group, in the type of the rows. Rows behind the last group have results that are not defined.

    rows:  rows of the first group, then those of the second one, and so on.
    sizes: number of rows of each group.

    Accelerators compute `jax.lax.ragged_dot`. On a CPU, XLA multiplies all rows with all matrices and masks the results, which takes as many times longer as
    there are groups. So there, a loop multiplies blocks of rows. Its number of rounds depends on the sizes, so no mesh may divide the arrays: on a mesh, each
    device has its own.
    """
    if platform() == "cpu":
        return _looped(rows, kernels, sizes)
    return jax.lax.ragged_dot(rows, kernels, sizes)


@jax.custom_vjp
def _looped(rows: Float[Array, "R I"], kernels: Float[Array, "G I O"], sizes: Int[Array, "G"]) -> Float[Array, "R O"]:
    return grouped_rows(rows, kernels, sizes)


def _forward(rows: jax.Array, kernels: jax.Array, sizes: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return grouped_rows(rows, kernels, sizes), (rows, kernels, sizes)


def _backward(saved: tuple[jax.Array, ...], gradient: Float[Array, "R O"]) -> tuple[jax.Array, jax.Array, None]:
    rows, kernels, sizes = saved
    return grouped_rows_transposed(gradient, kernels, sizes), grouped_kernels(rows, gradient, sizes), None


_looped.defvjp(_forward, _backward)


@jax.jit
def grouped_rows(
    rows: Float[Array, "R I"], kernels: Float[Array, "G I O"], sizes: Int[Array, "G"]
) -> Float[Array, "R O"]:
    """Return the product of each row with the matrix of its group."""
    return _rows(rows, kernels, sizes, kernels.shape[2], jnp.dot)


@jax.jit
def grouped_rows_transposed(
    rows: Float[Array, "R O"], kernels: Float[Array, "G I O"], sizes: Int[Array, "G"]
) -> Float[Array, "R I"]:
    """Return the product of each row with the transposed matrix of its group."""
    return _rows(rows, kernels, sizes, kernels.shape[1], lambda part, kernel: jnp.einsum("ro,io->ri", part, kernel))


@jax.jit
def grouped_kernels(
    rows: Float[Array, "R I"], gradient: Float[Array, "R O"], sizes: Int[Array, "G"]
) -> Float[Array, "G I O"]:
    """Return the sum over the rows of each group of the products of a row of `rows` with one of `gradient`: the gradient of the matrices."""

    def group(found: jax.Array, number: jax.Array, start: jax.Array, size: jax.Array) -> jax.Array:
        def block(total: jax.Array, at: jax.Array, length: int, own: jax.Array | None) -> jax.Array:
            part = _cut(rows, at, length)
            part = part if own is None else jnp.where(own, part, 0)
            return total + jnp.einsum("ri,ro->io", part, _cut(gradient, at, length), preferred_element_type=jnp.float32)

        total = _over_blocks(block, jnp.zeros(found.shape[1:], jnp.float32), start, size, rows.shape[0])
        return jax.lax.dynamic_update_index_in_dim(found, total.astype(found.dtype), number, axis=0)

    shape = (sizes.shape[0], rows.shape[1], gradient.shape[1])
    return _over_groups(group, jnp.zeros(shape, rows.dtype), sizes)


COUNTED = ("grouped_rows", "grouped_rows_transposed", "grouped_kernels")
"""Names of the compiled functions above. Their FLOPs are those of `jax.lax.ragged_dot` with the same operands."""


def _rows(
    rows: Float[Array, "R A"],
    kernels: Float[Array, "G I O"],
    sizes: Int[Array, "G"],
    width: int,
    product: Callable[[jax.Array, jax.Array], jax.Array],
) -> Float[Array, "R B"]:
    def group(found: jax.Array, number: jax.Array, start: jax.Array, size: jax.Array) -> jax.Array:
        kernel = jax.lax.dynamic_index_in_dim(kernels, number, keepdims=False)

        def block(found: jax.Array, at: jax.Array, length: int, own: jax.Array | None) -> jax.Array:
            new = product(_cut(rows, at, length), kernel)
            new = new if own is None else jnp.where(own, new, _cut(found, at, length))
            return jax.lax.dynamic_update_slice_in_dim(found, new, at, axis=0)

        return _over_blocks(block, found, start, size, rows.shape[0])

    return _over_groups(group, jnp.zeros((rows.shape[0], width), rows.dtype), sizes)


def _over_groups(function: Callable[..., Any], carry: Any, sizes: Int[Array, "G"]) -> Any:
    """Return the carry after `carry = function(carry, number, start, size)` for each group that has rows, in order."""
    starts = jnp.cumsum(sizes) - sizes
    filled = jnp.argsort(sizes == 0, stable=True)

    def body(place: jax.Array, carry: Any) -> Any:
        number = filled[place]
        return function(carry, number, starts[number], sizes[number])

    return jax.lax.fori_loop(0, jnp.sum(sizes > 0), body, carry)


def _over_blocks(function: Callable[..., Any], carry: Any, start: jax.Array, size: jax.Array, rows: int) -> Any:
    """Return the carry after `carry = function(carry, first row, length, own)` for blocks that cover a group: of each length, as many as fit into the rest.

    own: true for the rows of a block that are new rows of the group, [length, 1]. None means all; only the last block has others, before or behind.
    """
    end, smallest = start + size, min(BLOCKS[-1], rows)
    for length in (length for length in BLOCKS[:-1] if length <= rows):
        count = (end - start) // length
        carry = jax.lax.fori_loop(0, count, partial(_block, function, start, length), carry)
        start = start + count * length
    count = -(-(end - start) // smallest)
    return jax.lax.fori_loop(0, count, partial(_last, function, start, end, smallest, rows), carry)


def _block(function: Callable[..., Any], start: jax.Array, length: int, number: jax.Array, carry: Any) -> Any:
    return function(carry, start + number * length, length, None)


def _last(
    function: Callable[..., Any],
    start: jax.Array,
    end: jax.Array,
    length: int,
    rows: int,
    number: jax.Array,
    carry: Any,
) -> Any:
    """Process a block that may end behind its group. It begins earlier if it would end behind all rows."""
    first = start + number * length
    at = jnp.minimum(first, rows - length)
    places = at + jnp.arange(length)
    return function(carry, at, length, ((places >= first) & (places < end))[:, None])


def _cut(rows: Float[Array, "S A"], at: Int[Array, ""], length: int) -> Float[Array, "B A"]:
    return jax.lax.dynamic_slice_in_dim(rows, at, length)
