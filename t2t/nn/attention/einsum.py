"""Attention that computes all logits at once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from t2t.nn.attention.request import Request, blank
from t2t.nn.attention.softmax import softmax_attention
from t2t.nn.dropout import keep

HIDDEN = -1e30
"""Logit of hidden keys: far below any other, and finite, so that a row with only hidden keys is not NaN."""


def einsum(request: Request) -> Float[Array, "B q H D"]:
    """Attend with all logits, [B H q k] in float32, in memory."""
    return attend_with_bias(request, request.whole_bias())


def attend_with_bias(request: Request, bias: Float[Array, "#B #H q k"] | None) -> Float[Array, "B q H D"]:
    """Attend with the given bias instead of the request's."""
    q, k, v = request.q, *request.repeated()
    seen, rate, kept = request.mask.dense(), 0.0, None
    if request.key is not None and request.dropout > 0.0:
        rate, kept = (
            request.dropout,
            keep(request.key, 1.0 - request.dropout, (*seen.shape[:1], q.shape[2], *seen.shape[2:])),
        )
    if request.softcap is None:
        out = softmax_attention(rate, q, k, v, bias, jnp.where(seen, 0.0, HIDDEN), kept, request.sinks)
    else:
        out = _capped_attention(request.softcap, rate, q, k, v, bias, seen, kept, request.sinks)
    return blank(out, jnp.any(seen, axis=-1)[:, 0])


def capped(logits: Float[Array, "*S"], cap: float | None) -> Float[Array, "*S"]:
    """Return logits with a soft bound of (-cap, cap). None means no bound."""
    return logits if cap is None else cap * jnp.tanh(logits / cap)


def softmax(logits: Float[Array, "*S k"], sink: Float[Array, "*#S 1"] | None) -> Float[Array, "*S k"]:
    """Return the softmax over the last axis. sink: logit of one more key, whose weight is left out; None means that there is none."""
    if sink is None:
        return jax.nn.softmax(logits, axis=-1)
    sink = jnp.broadcast_to(sink.astype(logits.dtype), (*logits.shape[:-1], 1))
    return jax.nn.softmax(jnp.concatenate([logits, sink], axis=-1), axis=-1)[..., :-1]


def _capped_attention(
    cap: float,
    rate: float,
    q: Float[Array, "B q H D"],
    k: Float[Array, "B k H D"],
    v: Float[Array, "B k H D"],
    bias: Float[Array, "#B #H q k"] | None,
    seen: Bool[Array, "B 1 q k"],
    kept: Bool[Array, "B H q k"] | None,
    sinks: Float[Array, "H"] | None,
) -> Float[Array, "B q H D"]:
    """Attend like `softmax_attention`, but with bounded logits and automatic differentiation."""
    logits = capped(jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32), cap)
    logits = jnp.where(seen, logits if bias is None else logits + bias, HIDDEN)
    weights = softmax(logits, None if sinks is None else sinks[:, None, None])
    if kept is not None:
        weights = jnp.where(kept, weights / (1.0 - rate), 0.0)
    return jnp.einsum("bhqk,bkhd->bqhd", weights.astype(v.dtype), v)
