"""Rows cut into chunks of consecutive tokens, which recurrent mixers process one after the other."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped


def split(x: Shaped[Array, "B L *S"], size: int, fill: float = 0) -> Shaped[Array, "C B Q *S"]:
    """Cut rows into chunks of `size` tokens, stacked for a scan. The last one is filled up with `fill`."""
    count = -(-x.shape[1] // size)
    padding = [(0, 0), (0, count * size - x.shape[1]), *[(0, 0)] * (x.ndim - 2)]
    padded = jnp.pad(x, padding, constant_values=fill)
    return jnp.moveaxis(padded.reshape(x.shape[0], count, size, *x.shape[2:]), 1, 0)


def join(chunks: Float[Array, "C B Q *S"], length: int) -> Float[Array, "B L *S"]:
    """Invert `split`."""
    count, rows, size, *rest = chunks.shape
    return jnp.moveaxis(chunks, 0, 1).reshape(rows, count * size, *rest)[:, :length]
