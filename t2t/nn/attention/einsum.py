"""Attention with all logits at once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from t2t.nn.attention.request import Request, blank
from t2t.nn.dropout import dropout as drop

_HIDDEN = -1e30
"""Logit of what is not seen: far below any other, and finite, so that a row of nothing else is no NaN."""


def einsum(request: Request) -> Float[Array, "B q H D"]:
    """Attend with all logits, [B H q k] in float32, in memory."""
    return weigh(request, request.whole_bias())


def weigh(request: Request, bias: Float[Array, "#B #H q k"] | None) -> Float[Array, "B q H D"]:
    """Attend with a bias of its own, in place of the request's."""
    q, k, v = request.q, *request.repeated()
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32)
    if bias is not None:
        logits = logits + bias
    seen = request.mask.dense()
    weights = jax.nn.softmax(jnp.where(seen, logits, _HIDDEN), axis=-1).astype(v.dtype)
    out = jnp.einsum("bhqk,bkhd->bqhd", drop(weights, request.dropout, request.key), v)
    return blank(out, jnp.any(seen, axis=-1)[:, 0])
