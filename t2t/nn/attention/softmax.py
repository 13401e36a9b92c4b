"""Softmax attention with a gradient of its own, which goes over what has the logits' size as few times as it can."""

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
    """Return `softmax(q . k + bias + hidden) . v`. Logits and their softmax are float32; products are of the inputs' type, summed in float32.

    hidden: 0 where a query sees a key, far below any logit elsewhere. It has no gradient.
    kept:   which weights are not dropped, those divided by 1 - `rate`; None for all.

    With logits l, their highest m in a row, p = exp(l - m), the row's sum t of p, and z = kept / (1 - rate), the output is o = (z p . v) / t: D numbers
    of a row are divided rather than k. Its gradients, with g = dL/do and c = g / t:

        dL/dv = (z p)^T . c,  dL/dl = p (z (c . v^T) - sum(c o)),  dL/dq = dL/dl . k,  dL/dk = (dL/dl)^T . q,  dL/dbias = dL/dl

    The second is the softmax's: dL/dl = w (dL/dw - sum(w dL/dw)) for its weights w = p / t, where dL/dw = z (g . v^T), and so sum(w dL/dw) = sum(g o)
    (Dao et al. 2022, appendix B.2). Of the logits' size p alone is kept, and p and dL/dl alone are made.
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
    # As [D k]: XLA's CPU compiler has its fast product for the first factor turned round, which it is while it is copied anyway.
    of_k = jnp.einsum("bqhd,bhqk->bhdk", q, of_logits)
    of_v = jnp.einsum("bqhd,bhqk->bhdk", share, _of_kept(powers, kept).astype(v.dtype))
    of_bias = None if like is None else _of_bias(wide, like)
    return jnp.swapaxes(of_q, 1, 2), jnp.moveaxis(of_k, 3, 1), jnp.moveaxis(of_v, 3, 1), of_bias, None, None


softmax_attention.defvjp(_forward, _backward)


def _of_kept(x: Float[Array, "B H q k"], kept: Bool[Array, "B H q k"] | None) -> Float[Array, "B H q k"]:
    return x if kept is None else jnp.where(kept, x, 0.0)


def _of_bias(slope: Float[Array, "B H q k"], like: jax.Array) -> Float[Array, "#B #H q k"]:
    """Sum over what one bias served. Over rows as a product with ones: XLA's CPU sums over the first axis took 70 times as long."""
    rows, heads = like.shape[1:]
    if rows == 1:
        slope = jnp.einsum("b,bhqk->hqk", jnp.ones(slope.shape[0], slope.dtype), slope)[None]
    if heads == 1:
        slope = jnp.sum(slope, axis=1, keepdims=True)
    return slope.astype(like.dtype)
