"""The WKV operator of RWKV-4: an average of values, with weights that decay exponentially with the distance (Peng et al. 2023, equations 15 and 19)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from t2t.nn.recurrent.chunks import join, split
from t2t.nn.recurrent.segments import real, starts
from t2t.nn.state import State
from t2t.types import Array as AnyArray

EMPTY = -1e30
"""Logarithm of the scale of a sum without terms. It is finite, so that differences of two of them are."""


@struct.dataclass
class Sums(State):
    """Weighted sums over the tokens of an example so far, for each channel, in float32.

    The weight of a token is the exponential of its key, decayed since. The sums of values and of weights are `values * exp(scale)` and
    `weights * exp(scale)`. The scale is the largest exponent, so that no exponential overflows (Peng et al. 2023, appendix D).
    """

    values: Float[Array, "*B D"]
    weights: Float[Array, "*B D"]
    scale: Float[Array, "*B D"]


@struct.dataclass
class _Span:
    """Sums over a span of consecutive positions. steps: number of its tokens; restarts: whether an example begins in it."""

    sums: Sums
    steps: Float[Array, "B L 1"]
    restarts: Bool[Array, "B L 1"]


def empty(rows: int, width: int) -> Sums:
    """Return the sums before the first token."""
    zeros = jnp.zeros((rows, width), jnp.float32)
    return Sums(zeros, zeros, jnp.full_like(zeros, EMPTY))


def wkv(
    key: Float[Array, "B L D"],
    value: Float[Array, "B L D"],
    decay: Float[Array, "D"],
    bonus: Float[Array, "D"],
    segments: Int[AnyArray, "B L"],
    chunk: int,
) -> tuple[Float[Array, "B L D"], Sums]:
    """Return the average of each token, in float32, and the sums after the last token of each row.

    Chunks of positions follow one another in a loop; the positions of a chunk are computed in log2(chunk) rounds. With a chunk of 1, it is the recurrence.

    decay: how much the logarithm of a weight decreases with each token, at least 0.
    bonus: what is added to the key of the current token in its own average.
    segments: number of the example of each token. Sums begin anew with each example, and padding (0) leaves them as they are.
    """
    rows, length, width = key.shape
    chunk = min(chunk, length)
    parts = (key.astype(jnp.float32), value.astype(jnp.float32), real(segments)[..., None], starts(segments)[..., None])

    def body(before: Sums, item: tuple[jax.Array, ...]) -> tuple[Sums, jax.Array]:
        key, value, tokens, first = item
        spans = _Span(_of_token(key, value, tokens), tokens.astype(jnp.float32), first)
        within: _Span = jax.lax.associative_scan(lambda one, other: _joined(one, other, decay), spans, axis=1)
        start = jax.tree.map(lambda x: x[:, None], before)
        after = _added(start, within, decay)
        past = jax.tree.map(lambda x, y: jnp.concatenate([x, y[:, :-1]], axis=1), start, after)
        past = past.replace(scale=jnp.where(first, EMPTY, past.scale))
        return jax.tree.map(lambda x: x[:, -1], after), _average(past, key, value, bonus)

    # What a chunk computes is cheap to compute again, and several times as large as its inputs.
    cut = jax.tree.map(lambda x: split(x, chunk), parts)
    last, out = jax.lax.scan(jax.checkpoint(body, prevent_cse=False), empty(rows, width), cut)
    return join(out, length), last


def wkv_step(
    key: Float[Array, "B D"],
    value: Float[Array, "B D"],
    decay: Float[Array, "D"],
    bonus: Float[Array, "D"],
    sums: Sums,
) -> tuple[Float[Array, "B D"], Sums]:
    """Return the average of one more token per row, in float32, and the sums after it."""
    key, value = key.astype(jnp.float32), value.astype(jnp.float32)
    token = _Span(_of_token(key, value, jnp.ones((1, 1), bool)), jnp.ones((1, 1)), jnp.zeros((1, 1), bool))
    return _average(sums, key, value, bonus), _added(sums, token, decay)


def _of_token(key: Any, value: Any, tokens: Any) -> Sums:
    """Return the sums of single tokens. Scales are constants for the gradient: the result does not depend on them."""
    scale = jax.lax.stop_gradient(key)
    weight = jnp.where(tokens, jnp.exp(key - scale), 0.0)
    return Sums(weight * value, weight, jnp.where(tokens, scale, EMPTY))


def _added(before: Sums, span: _Span, decay: Any) -> Sums:
    """Return the sums after a span that follows `before`."""
    kept = jnp.where(span.restarts, EMPTY, before.scale - decay * span.steps)
    scale = jax.lax.stop_gradient(jnp.maximum(kept, span.sums.scale))
    past, now = jnp.exp(kept - scale), jnp.exp(span.sums.scale - scale)
    return Sums(past * before.values + now * span.sums.values, past * before.weights + now * span.sums.weights, scale)


def _joined(one: _Span, other: _Span, decay: Any) -> _Span:
    """Return the span that consists of two adjacent ones."""
    return _Span(_added(one.sums, other, decay), one.steps + other.steps, one.restarts | other.restarts)


def _average(past: Sums, key: Any, value: Any, bonus: Any) -> Any:
    """Return the averages over earlier tokens and the current one."""
    own = bonus + key
    scale = jax.lax.stop_gradient(jnp.maximum(past.scale, own))
    before, now = jnp.exp(past.scale - scale), jnp.exp(own - scale)
    return (before * past.values + now * value) / (before * past.weights + now)
