"""Several codes in one byte, and groups of inputs."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

GROUP = 64
"""Number of consecutive inputs of an output that have one scale, as in QLoRA (Dettmers et al. 2023, section 3)."""


def groups(inputs: int) -> int:
    """Return the number of groups of an output. The last one may be smaller."""
    return -(-inputs // GROUP)


def grouped(weight: Float[Array, "O I"], size: int) -> Float[Array, "O G S"]:
    """Split the inputs into groups of `size`. The last group is filled with zeros."""
    outputs, inputs = weight.shape
    padded = jnp.pad(weight, ((0, 0), (0, -inputs % size)))
    return padded.reshape(outputs, -1, size)


def ungrouped(values: Float[Array, "O G S"], inputs: int) -> Float[Array, "O I"]:
    """Invert `grouped`."""
    return values.reshape(values.shape[0], -1)[:, :inputs]


def packed(codes: UInt8[Array, "O I"], bits: int = 4) -> UInt8[Array, "O P"]:
    """Put codes of `bits` bits, which divide 8, into bytes. The first code of a byte is in its upper bits."""
    count = 8 // bits
    whole = jnp.pad(codes, ((0, 0), (0, -codes.shape[1] % count)))
    parts = [whole[:, place::count] << (8 - bits * (place + 1)) for place in range(count)]
    return functools.reduce(jnp.bitwise_or, parts)


def unpacked(codes: UInt8[Array, "O P"], inputs: int, bits: int = 4) -> UInt8[Array, "O I"]:
    """Invert `packed`."""
    shifts = jnp.arange(8 - bits, -1, -bits, dtype=jnp.uint8)
    parts = jax.lax.shift_right_logical(
        jnp.broadcast_to(codes[..., None], (*codes.shape, len(shifts))),
        jnp.broadcast_to(shifts, (*codes.shape, len(shifts))),
    )
    return (parts & jnp.uint8(2**bits - 1)).reshape(codes.shape[0], -1)[:, :inputs]
