"""Log-probabilities of targets with a large vocabulary, without all logits of a batch in memory at once."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from t2t import types
from t2t.chunked_cross_entropy import Head
from t2t.sharding import axis_size, divided_rows


def token_log_probs(
    head: Head, hidden: Float[Array, "B L D"], targets: Int[types.Array, "B L"], *, positions: int
) -> Float[Array, "B L"]:
    """Return the float32 log-probability of each target, with a gradient.

    Rows are cut into blocks along their length. The backward pass computes the logits of a block again.

    head: computes the logits of each position independently.
    positions: positions of a device whose logits exist at the same time (`t2t.chunked_cross_entropy.positions_at_a_time`).
    """

    def block(x: Float[Array, "B S D"], ids: Int[Array, "B S"]) -> Float[Array, "B S"]:
        logits = head(x).astype(jnp.float32)
        picked = jnp.take_along_axis(logits, ids[..., None], axis=-1)[..., 0]
        return picked - jax.nn.logsumexp(logits, axis=-1)

    rows, length = targets.shape
    local = max(rows // math.prod(axis_size(axis) for axis in divided_rows()), 1)
    size = min(max(positions // local, 1), length)
    count = -(-length // size)
    ids = jnp.asarray(targets)
    if count == 1:
        return block(hidden, ids)

    def cut(x: jax.Array) -> jax.Array:
        padded = jnp.pad(x, ((0, 0), (0, count * size - length)) + ((0, 0),) * (x.ndim - 2))
        return padded.reshape(rows, count, size, *x.shape[2:]).swapaxes(0, 1)

    found = jax.lax.map(jax.checkpoint(lambda part: block(*part)), (cut(hidden), cut(ids)))
    return found.swapaxes(0, 1).reshape(rows, count * size)[:, :length]
