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
    sinks: Float[Array, "H"] | None = None,
) -> Float[Array, "B q H D"]:
    """Return `softmax(q . k + bias + hidden) . v`. Logits and their softmax are float32. Products have the type of the inputs and are summed in float32.

    hidden: 0 if a query sees a key, else a value far below any logit. It has no gradient.
    kept:   which weights dropout keeps; they are divided by 1 - `rate`. None means all.
    sinks:  logit of each head of one more key, whose value is 0 (an attention sink). None means that there is none.

    Let l be the logits, m the maximum of each row, p = exp(l - m), t the sum of each row of p, and z = kept / (1 - rate). The output is o = (z p . v) / t: this
    divides D numbers for each row instead of k numbers. With g = dL/do and c = g / t, the gradients are:

        dL/dv = (z p)^T . c,  dL/dl = p (z (c . v^T) - sum(c o)),  dL/dq = dL/dl . k,  dL/dk = (dL/dl)^T . q,  dL/dbias = dL/dl

    The second is the gradient of the softmax: dL/dl = w (dL/dw - sum(w dL/dw)) for its weights w = p / t, where dL/dw = z (g . v^T), so sum(w dL/dw) = sum(g o)
    (Dao et al. 2022, appendix B.2). A sink s adds exp(s - m) to t; its value is 0, so dL/ds is the sum of -exp(s - m) sum(c o) over queries. Of the arrays of the logits' size, only p is saved, and only p and dL/dl are computed.
    """
    return _forward(rate, q, k, v, bias, hidden, kept, sinks)[0]


def _forward(
    rate: float,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array | None,
    hidden: jax.Array,
    kept: jax.Array | None,
    sinks: jax.Array | None = None,
) -> tuple[jax.Array, tuple[Any, ...]]:
    heads_first = [jnp.swapaxes(x, 1, 2) for x in (q, k, v)]
    logits = jnp.einsum("bhqd,bhkd->bhqk", *heads_first[:2], preferred_element_type=jnp.float32)
    logits = (logits if bias is None else logits + bias) + hidden
    largest, sink_powers = jnp.max(logits, axis=-1, keepdims=True), None
    if sinks is not None:
        sink = sinks.astype(logits.dtype)[:, None, None]
        largest = jnp.maximum(largest, sink)
        sink_powers = jnp.exp(sink - largest)
    powers = jnp.exp(logits - largest)
    total = jnp.sum(powers, axis=-1, keepdims=True)
    if sink_powers is not None:
        total = total + sink_powers
    weights = _apply_dropout(powers, kept).astype(v.dtype)
    out = jnp.einsum("bhqk,bhkd->bhqd", weights, heads_first[2], preferred_element_type=jnp.float32)
    out = (out / (total * (1.0 - rate))).astype(v.dtype)
    like = None if bias is None else jnp.zeros((0, *bias.shape[:2]), bias.dtype)
    return jnp.swapaxes(out, 1, 2), (q, k, v, powers, total, out, kept, like, sinks, sink_powers)


def _backward(
    rate: float, residuals: tuple[Any, ...], gradient: Float[Array, "B q H D"]
) -> tuple[jax.Array | None, ...]:
    q, k, v, powers, total, out, kept, like, sinks, sink_powers = residuals
    scaled = gradient / jnp.swapaxes(total, 1, 2)
    scaled_heads_first = jnp.swapaxes(scaled, 1, 2)
    inner = jnp.sum(scaled_heads_first * out, axis=-1, keepdims=True)
    scaled, scaled_heads_first = ((x / (1.0 - rate)).astype(v.dtype) for x in (scaled, scaled_heads_first))
    power_gradients = jnp.einsum(
        "bhqd,bhkd->bhqk", scaled_heads_first, jnp.swapaxes(v, 1, 2), preferred_element_type=jnp.float32
    )
    wide_gradients = powers * (_apply_dropout(power_gradients, kept) - inner)
    logit_gradients = wide_gradients.astype(q.dtype)
    q_gradient = jnp.einsum("bhqk,bhkd->bhqd", logit_gradients, jnp.swapaxes(k, 1, 2))
    # As [D k]: XLA's CPU compiler has a fast product if the first factor is transposed, and it is copied here anyway.
    k_gradient = jnp.einsum("bqhd,bhqk->bhdk", q, logit_gradients)
    v_gradient = jnp.einsum("bqhd,bhqk->bhdk", scaled, _apply_dropout(powers, kept).astype(v.dtype))
    bias_gradient = None if like is None else _bias_gradient(wide_gradients, like)
    sink_gradient = None if sinks is None else -jnp.sum(sink_powers * inner, axis=(0, 2, 3)).astype(sinks.dtype)
    return (
        jnp.swapaxes(q_gradient, 1, 2),
        jnp.moveaxis(k_gradient, 3, 1),
        jnp.moveaxis(v_gradient, 3, 1),
        bias_gradient,
        None,
        None,
        sink_gradient,
    )


softmax_attention.defvjp(_forward, _backward)


def _apply_dropout(x: Float[Array, "B H q k"], kept: Bool[Array, "B H q k"] | None) -> Float[Array, "B H q k"]:
    return x if kept is None else jnp.where(kept, x, 0.0)


def _bias_gradient(gradient: Float[Array, "B H q k"], like: jax.Array) -> Float[Array, "#B #H q k"]:
    """Sum over the axes along which the bias is broadcast. The sum over rows is a product with ones: XLA's CPU sum over the first axis was 70 times slower."""
    rows, heads = like.shape[1:]
    if rows == 1:
        gradient = jnp.einsum("b,bhqk->hqk", jnp.ones(gradient.shape[0], gradient.dtype), gradient)[None]
    if heads == 1:
        gradient = jnp.sum(gradient, axis=1, keepdims=True)
    return gradient.astype(like.dtype)
