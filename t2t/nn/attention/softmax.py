"""Softmax attention with a custom gradient that makes as few passes as possible over arrays of the logits' size."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def softmax_attention(
    rate: float,
    q: Float[Array, "B q H D"],
    k: Float[Array, "B k H D"],
    v: Float[Array, "B k H D"],
    bias: Float[Array, "#B #H q k"] | None,
    hidden: Float[Array, "B 1 q k"],
    kept: Bool[Array, "B H q k"] | None,
) -> Float[Array, "B q H D"]:
    """Return `softmax(q . k + bias + hidden) . v`. Logits and their softmax are float32. Products have the type of the inputs and are summed in float32.

    hidden: 0 if a query sees a key, else a value far below any logit. It has no gradient.
    kept:   which weights dropout keeps; they are divided by 1 - `rate`. None means all.

    Let l be the logits, m the maximum of each row, p = exp(l - m), t the sum of each row of p, and z = kept / (1 - rate). The output is o = (z p . v) / t: this
    divides D numbers for each row instead of k numbers. With g = dL/do and c = g / t, the gradients are:

        dL/dv = (z p)^T . c,  dL/dl = p (z (c . v^T) - sum(c o)),  dL/dq = dL/dl . k,  dL/dk = (dL/dl)^T . q,  dL/dbias = dL/dl

    The second is the gradient of the softmax: dL/dl = w (dL/dw - sum(w dL/dw)) for its weights w = p / t, where dL/dw = z (g . v^T), so sum(w dL/dw) = sum(g o)
    (Dao et al. 2022, appendix B.2). Of the arrays of the logits' size, only p is saved, and only p and dL/dl are computed.
    """
    return _forward(rate, q, k, v, bias, hidden, kept)[0]


def _forward(
    rate: float,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array | None,
    hidden: jax.Array,
    kept: jax.Array | None,
) -> tuple[jax.Array, tuple[Any, ...]]:
    heads_first = [jnp.swapaxes(x, 1, 2) for x in (q, k, v)]
    logits = jnp.einsum("bhqd,bhkd->bhqk", *heads_first[:2], preferred_element_type=jnp.float32)
    logits = (logits if bias is None else logits + bias) + hidden
    powers = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    total = jnp.sum(powers, axis=-1, keepdims=True)
    weights = _of_kept(powers, kept).astype(v.dtype)
    out = jnp.einsum("bhqk,bhkd->bhqd", weights, heads_first[2], preferred_element_type=jnp.float32)
    out = (out / (total * (1.0 - rate))).astype(v.dtype)
    like = None if bias is None else jnp.zeros((0, *bias.shape[:2]), bias.dtype)
    return jnp.swapaxes(out, 1, 2), (q, k, v, powers, total, out, kept, like)


def _backward(rate: float, residuals: tuple[Any, ...], slope: Float[Array, "B q H D"]) -> tuple[jax.Array | None, ...]:
    q, k, v, powers, total, out, kept, like = residuals
    share = slope / jnp.swapaxes(total, 1, 2)
    own = jnp.swapaxes(share, 1, 2)
    inner = jnp.sum(own * out, axis=-1, keepdims=True)
    share, own = ((x / (1.0 - rate)).astype(v.dtype) for x in (share, own))
    of_powers = jnp.einsum("bhqd,bhkd->bhqk", own, jnp.swapaxes(v, 1, 2), preferred_element_type=jnp.float32)
    wide = powers * (_of_kept(of_powers, kept) - inner)
    of_logits = wide.astype(q.dtype)
    of_q = jnp.einsum("bhqk,bhkd->bhqd", of_logits, jnp.swapaxes(k, 1, 2))
    # As [D k]: XLA's CPU compiler has a fast product if the first factor is transposed, and it is copied here anyway.
    of_k = jnp.einsum("bqhd,bhqk->bhdk", q, of_logits)
    of_v = jnp.einsum("bqhd,bhqk->bhdk", share, _of_kept(powers, kept).astype(v.dtype))
    of_bias = None if like is None else _of_bias(wide, like)
    return jnp.swapaxes(of_q, 1, 2), jnp.moveaxis(of_k, 3, 1), jnp.moveaxis(of_v, 3, 1), of_bias, None, None


softmax_attention.defvjp(_forward, _backward)


def _of_kept(x: Float[Array, "B H q k"], kept: Bool[Array, "B H q k"] | None) -> Float[Array, "B H q k"]:
    return x if kept is None else jnp.where(kept, x, 0.0)


def _of_bias(slope: Float[Array, "B H q k"], like: jax.Array) -> Float[Array, "#B #H q k"]:
    """Sum over the axes along which the bias is broadcast. The sum over rows is a product with ones: XLA's CPU sum over the first axis was 70 times slower."""
    rows, heads = like.shape[1:]
    if rows == 1:
        slope = jnp.einsum("b,bhqk->hqk", jnp.ones(slope.shape[0], slope.dtype), slope)[None]
    if heads == 1:
        slope = jnp.sum(slope, axis=1, keepdims=True)
    return slope.astype(like.dtype)
