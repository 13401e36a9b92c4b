"""Attention with all logits at once."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from t2t.nn.attention.request import Request, blank
from t2t.nn.attention.softmax import softmax_attention
from t2t.nn.dropout import keep

HIDDEN = -1e30
"""Logit of what is not seen: far below any other, and finite, so that a row of nothing else is no NaN."""


def einsum(request: Request) -> Float[Array, "B q H D"]:
    """Attend with all logits, [B H q k] in float32, in memory."""
    return weigh(request, request.whole_bias())


def weigh(request: Request, bias: Float[Array, "#B #H q k"] | None) -> Float[Array, "B q H D"]:
    """Attend with a bias of its own, in place of the request's."""
    q, k, v = request.q, *request.repeated()
    seen, rate, kept = request.mask.dense(), 0.0, None
    if request.key is not None and request.dropout > 0.0:
        rate, kept = (
            request.dropout,
            keep(request.key, 1.0 - request.dropout, (*seen.shape[:1], q.shape[2], *seen.shape[2:])),
        )
    out = softmax_attention(rate, q, k, v, bias, jnp.where(seen, 0.0, HIDDEN), kept)
    return blank(out, jnp.any(seen, axis=-1)[:, 0])
