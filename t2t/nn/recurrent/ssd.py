"""The state-space recurrence of Mamba-2, computed in chunks with matrix products (Dao and Gu 2024, "Transformers are SSMs", section 6).

For each head, with a state S of P x N values, a step dt > 0 and a decay rate A < 0:

    S[t] = exp(dt[t] A) S[t - 1] + dt[t] x[t] b[t]^T        y[t] = S[t] c[t]

Heads of the same group have the same b and c. Decays and states are float32. Matrix products are computed in the type of `x`.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from t2t.nn.recurrent import segments
from t2t.nn.recurrent.chunk_scan import Belonging, over_chunks, pair_decay
from t2t.types import Array as AnyArray


def ssd(
    x: Float[Array, "B L H P"],
    dt: Float[Array, "B L H"],
    a: Float[Array, "H"],
    b: Float[Array, "B L G N"],
    c: Float[Array, "B L G N"],
    example: Int[AnyArray, "B L"],
    *,
    chunk: int,
) -> tuple[Float[Array, "B L H P"], Float[Array, "B H P N"]]:
    """Return y in float32 and the state after whole rows, which is that of each row's last example.

    x, dt, a, b, c: see the formula above. dt and a are float32; the number of heads is a multiple of the number of groups.
    example: segments of the tokens, 0 for padding, which leaves the state as it is.
    chunk:   number of tokens Q of a chunk. Within a chunk, products of Q x Q matrices replace Q steps; the result does not depend on Q.

    The backward pass computes each chunk again, so that it holds the Q x Q matrices of one chunk only.
    """
    batch, length, heads, width = x.shape
    groups, size = b.shape[2:]
    dt = jnp.where(segments.real(example)[..., None], dt, 0.0)
    by_group = (batch, length, groups, heads // groups)
    given = (x.reshape(*by_group, width), dt.reshape(by_group), (dt * a).reshape(by_group), b, c)
    start = jnp.zeros((batch, groups, heads // groups, width, size), jnp.float32)
    y, state = over_chunks(_chunk, start, given, example, min(chunk, length))
    return y.reshape(x.shape), state.reshape(batch, heads, width, size)


def _chunk(state: Any, part: tuple[Any, ...], belonging: Belonging) -> tuple[Any, Any]:
    """Process one chunk. Axes: b rows, q and k tokens of the chunk, g groups, r heads of a group, p width of a head, n width of b and c.

    state: that before the chunk [b g r p n].
    """
    x, dt, log_decay, b, c = part
    kind = x.dtype
    total = jnp.cumsum(log_decay, axis=1)  # [b q g r]
    written = (x * dt[..., None]).astype(kind)

    # Within the chunk: what token k wrote has decayed by the steps from k + 1 to q.
    scores = jnp.einsum("bqgn,bkgn->bgqk", c, b)[:, :, None] * pair_decay(total, belonging.pairs)
    inside = jnp.einsum("bgrqk,bkgrp->bqgrp", scores.astype(kind), written)

    # From the chunks before.
    carried = jnp.where(belonging.reads[..., None, None], jnp.exp(total), 0.0)
    before = jnp.einsum("bqgn,bgrpn->bqgrp", c, state.astype(kind)) * carried[..., None]

    # The state after the chunk.
    left = jnp.where(belonging.writes[..., None, None], jnp.exp(total[:, -1:] - total), 0.0)
    kept = jnp.where(belonging.keeps[:, None, None], jnp.exp(total[:, -1]), 0.0)
    new = jnp.einsum("bkgrp,bkgn->bgrpn", (written * left[..., None]).astype(kind), b)
    return state * kept[..., None, None] + new, inside + before


def ssd_step(
    x: Float[Array, "B H P"],
    dt: Float[Array, "B H"],
    a: Float[Array, "H"],
    b: Float[Array, "B G N"],
    c: Float[Array, "B G N"],
    state: Float[Array, "B H P N"],
) -> tuple[Float[Array, "B H P"], Float[Array, "B H P N"]]:
    """Return y in float32 and the new state for one more token per row."""
    batch, heads, width, size = state.shape
    by_group = (batch, b.shape[1], heads // b.shape[1])
    written = (x.astype(jnp.float32) * dt[..., None]).reshape(*by_group, width)
    decay = jnp.exp(dt * a).reshape(*by_group, 1, 1)
    new = decay * state.reshape(*by_group, width, size) + written[..., None] * b.astype(jnp.float32)[:, :, None, None]
    y = jnp.sum(new * c.astype(jnp.float32)[:, :, None, None], axis=-1)
    return y.reshape(x.shape), new.reshape(state.shape)
