"""The selective scan of Mamba: a diagonal recurrence whose decay depends on the token (Gu and Dao 2023, section 3.3).

For each channel, with a state h of N values, a step dt > 0 and decay rates A < 0:

    h[t] = exp(dt[t] A) * h[t - 1] + dt[t] x[t] b[t]        y[t] = sum of h[t] * c[t]

All channels have the same b and c. Everything is computed in float32: the states decay by factors close to 1.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from t2t.nn.recurrent import chunks, segments
from t2t.types import Array as AnyArray


def selective_scan(
    x: Float[Array, "B L D"],
    dt: Float[Array, "B L D"],
    a: Float[Array, "N D"],
    b: Float[Array, "B L N"],
    c: Float[Array, "B L N"],
    example: Int[AnyArray, "B L"],
    *,
    chunk: int,
) -> tuple[Float[Array, "B L D"], Float[Array, "B N D"]]:
    """Return y in float32 and the state after whole rows, which is that of each row's last example.

    x, dt, a, b, c: see the formula above.
    example: segments of the tokens, 0 for padding, which leaves the state as it is.
    chunk:   number of tokens of a chunk. Chunks are processed one after the other, and the tokens of a chunk in a parallel scan. The result does not depend
             on it.

    The states of a chunk's tokens exist at the same time, B x chunk x N x D values. The backward pass computes each chunk again, so it does not hold more.
    """
    batch, length, channels = x.shape
    chunk = min(chunk, length)
    dt = jnp.where(segments.real(example)[..., None], dt, 0.0)
    x, b, c = (part.astype(jnp.float32) for part in (x, b, c))
    given = (dt, dt * x, b, c, segments.starts(example))
    start = jnp.zeros((batch, a.shape[0], channels), jnp.float32)
    body = jax.checkpoint(partial(_chunk, a), prevent_cse=False)
    state, y = jax.lax.scan(body, start, tuple(chunks.split(part, chunk) for part in given))
    return chunks.join(y, length), state


def _chunk(
    a: Float[Array, "N D"], state: Float[Array, "B N D"], part: tuple[Any, ...]
) -> tuple[Float[Array, "B N D"], Float[Array, "B Q D"]]:
    dt, written, b, c, starts = part
    # An example starts with a decay of 0, which ends the one before it.
    decay = jnp.where(starts[..., None, None], 0.0, jnp.exp(dt[:, :, None] * a))
    added = written[:, :, None] * b[..., None]
    added = added.at[:, 0].add(decay[:, 0] * state)
    _, hidden = jax.lax.associative_scan(_after, (decay, added), axis=1)
    return hidden[:, -1], jnp.sum(hidden * c[..., None], axis=2)


def _after(one: tuple[Any, Any], other: tuple[Any, Any]) -> tuple[Any, Any]:
    """Return the decay and the sum of two consecutive parts."""
    return one[0] * other[0], other[0] * one[1] + other[1]


def selective_step(
    x: Float[Array, "B D"],
    dt: Float[Array, "B D"],
    a: Float[Array, "N D"],
    b: Float[Array, "B N"],
    c: Float[Array, "B N"],
    state: Float[Array, "B N D"],
) -> tuple[Float[Array, "B D"], Float[Array, "B N D"]]:
    """Return y in float32 and the new state for one more token per row."""
    x, b, c = (part.astype(jnp.float32) for part in (x, b, c))
    new = jnp.exp(dt[:, None] * a) * state + (dt * x)[:, None] * b[..., None]
    return jnp.sum(new * c[..., None], axis=1), new
