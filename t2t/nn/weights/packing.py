"""Two codes of four bits in one byte, and groups of inputs."""

from __future__ import annotations

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


def packed(codes: UInt8[Array, "O I"]) -> UInt8[Array, "O P"]:
    """Put two codes below 16 in each byte, the first in its upper half."""
    even = jnp.pad(codes, ((0, 0), (0, codes.shape[1] % 2)))
    return (even[:, ::2] << 4) | even[:, 1::2]


def unpacked(codes: UInt8[Array, "O P"], inputs: int) -> UInt8[Array, "O I"]:
    """Invert `packed`."""
    halves = jax.lax.shift_right_logical(
        jnp.broadcast_to(codes[..., None], (*codes.shape, 2)),
        jnp.broadcast_to(jnp.array([4, 0], jnp.uint8), (*codes.shape, 2)),
    )
    return (halves & jnp.uint8(15)).reshape(codes.shape[0], -1)[:, :inputs]
