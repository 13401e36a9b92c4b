"""Padding of rows to lengths that kernels can divide into blocks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from t2t.errors import UserError
from t2t.nn.masks import Mask
from t2t.types import Array

LANES = 128
"""Width of a TPU's vectors. Block lengths must be multiples of it."""


def padded(length: int) -> int:
    """Return the padded length of rows."""
    return -(-length // LANES) * LANES


def block_size(length: int, max_block: int) -> int:
    """Return the longest block of at most `max_block` that divides a padded length."""
    return max(size for size in range(LANES, max(max_block, LANES) + 1, LANES) if length % size == 0)


def heads_first(x: Float[jax.Array, "B L H D"]) -> Float[jax.Array, "B H P D"]:
    """Return padded rows in the layout of the kernels."""
    return jnp.pad(jnp.swapaxes(x, 1, 2), ((0, 0), (0, 0), (0, padded(x.shape[1]) - x.shape[1]), (0, 0)))


def heads_last(x: Float[jax.Array, "B H P D"], length: int) -> Float[jax.Array, "B L H D"]:
    """Invert `heads_first`."""
    return jnp.swapaxes(x[:, :, :length], 1, 2)


def padded_segments(ids: Int[Array, "B L"]) -> Int[jax.Array, "B P"]:
    """Return the segments of padded rows. Kernels treat padding as a segment that sees itself; its output is set to 0 later."""
    ids = jnp.asarray(ids, jnp.int32)
    return jnp.pad(ids, ((0, 0), (0, padded(ids.shape[1]) - ids.shape[1])))


def check_causal(backend: str, mask: Mask) -> None:
    """Raise UserError if a causal mask is not of whole rows over themselves. Kernels skip the blocks above the diagonal of such masks."""
    if mask.causal and not mask.self_attention:
        raise UserError(
            f"attention backend {backend!r} (--model.attention) supports causal masks only with Mask.self_attention."
            " Nearest: chunked, einsum."
        )
