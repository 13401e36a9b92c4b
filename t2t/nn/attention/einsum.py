"""Attention with all logits at once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from t2t.nn.attention.request import Request, blank
from t2t.nn.dropout import dropout as drop

HIDDEN = -1e30
"""Logit of what is not seen: far below any other, and finite, so that a row of nothing else is no NaN."""


def einsum(request: Request) -> Float[Array, "B q H D"]:
    """Attend with all logits, [B H q k] in float32, in memory."""
    return weigh(request, request.whole_bias())


def weigh(request: Request, bias: Float[Array, "#B #H q k"] | None) -> Float[Array, "B q H D"]:
    """Attend with a bias of its own, in place of the request's."""
    q, k, v = request.q, *request.repeated()
    logits = _scores(q, k)
    if bias is not None:
        logits = _add_bias(logits, bias)
    seen = request.mask.dense()
    weights = jax.nn.softmax(jnp.where(seen, logits, HIDDEN), axis=-1).astype(v.dtype)
    out = jnp.einsum("bhqk,bkhd->bqhd", drop(weights, request.dropout, request.key), v)
    return blank(out, jnp.any(seen, axis=-1)[:, 0])


@jax.custom_vjp
def _scores(q: Float[Array, "B q H D"], k: Float[Array, "B k H D"]) -> Float[Array, "B H q k"]:
    """Return the products in float32; those of the gradient are of the queries' type, as in `t2t.nn.linear.matmul`."""
    return jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32)


def _scores_forward(q: jax.Array, k: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _scores(q, k), (q, k)


def _scores_backward(operands: tuple[jax.Array, jax.Array], slope: jax.Array) -> tuple[jax.Array, jax.Array]:
    q, k = operands
    slope = slope.astype(q.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", slope, k), jnp.einsum("bhqk,bqhd->bkhd", slope, q)


_scores.defvjp(_scores_forward, _scores_backward)


@jax.custom_vjp
def _add_bias(logits: Float[Array, "B H q k"], bias: Float[Array, "#B #H q k"]) -> Float[Array, "B H q k"]:
    """Return the sum. Where one bias serves all rows, its gradient is a product with ones: XLA's CPU sums over the first axis took 70 times as long."""
    return logits + bias


def _add_bias_forward(logits: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
    return logits + bias, jnp.zeros((0, *bias.shape[:2]), bias.dtype)


def _add_bias_backward(like: jax.Array, slope: jax.Array) -> tuple[jax.Array, jax.Array]:
    rows, heads = like.shape[1:]
    total = slope
    if rows == 1:
        total = jnp.einsum("b,bhqk->hqk", jnp.ones(slope.shape[0], slope.dtype), slope)[None]
    if heads == 1:
        total = jnp.sum(total, axis=1, keepdims=True)
    return slope, total.astype(like.dtype)


_add_bias.defvjp(_add_bias_forward, _add_bias_backward)
