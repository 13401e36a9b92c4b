"""The state-space recurrence of Mamba-2, computed in chunks with matrix products (Dao and Gu 2024, "Transformers are SSMs", section 6).

For each head, with a state S of P x N values, a step dt > 0 and a decay rate A < 0:

    S[t] = exp(dt[t] A) S[t - 1] + dt[t] x[t] b[t]^T        y[t] = S[t] c[t]

Heads of the same group have the same b and c. Decays and states are float32. Matrix products are computed in the type of `x`.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from t2t.nn.recurrent import segments
from t2t.nn.recurrent.chunk_scan import Belonging, belonging, chunk_examples, pair_decay
from t2t.nn.recurrent.chunks import join, split
from t2t.types import Array as AnyArray


class _Terms(NamedTuple):
    """What tokens read and write: in rows as written here, in chunks with an axis of chunks first and tokens last, so that no product needs a transposition.

    written: dt x, in chunks [C b g r p k].
    log_decay: dt A, in chunks [C b g r k].
    b, c: in chunks [C b g n k].
    """

    written: Float[Array, "B L G R P"]
    log_decay: Float[Array, "B L G R"]
    b: Float[Array, "B L G N"]
    c: Float[Array, "B L G N"]


class _Decays(NamedTuple):
    """What is left after the decays within a chunk.

    pairs:   at token q, of what token k wrote.
    carried: at each token, of the state before the chunk.
    left:    at the end, of what each token wrote.
    kept:    at the end, of the state before the chunk.
    """

    pairs: Float[Array, "B G R Q K"]
    carried: Float[Array, "B G R Q"]
    left: Float[Array, "B G R K"]
    kept: Float[Array, "B G R"]


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

    The backward pass computes the Q x Q matrices again, one chunk after the other, from the states between the chunks.
    """
    batch, length, heads, width = x.shape
    groups, size = b.shape[2:]
    dt = jnp.where(segments.real(example)[..., None], dt, 0.0)
    written = (x * dt[..., None]).astype(x.dtype)
    by_group = (batch, length, groups, heads // groups)
    terms = _Terms(written.reshape(*by_group, width), (dt * a).reshape(by_group), b, c)
    y, state = _over_chunks(terms, chunk_examples(example, min(chunk, length)))
    return y.reshape(x.shape), state.reshape(batch, heads, width, size)


@jax.custom_vjp
def _over_chunks(terms: _Terms, examples: Any) -> tuple[Float[Array, "B L G R P"], Float[Array, "B G R P N"]]:
    return _forward(terms, examples)[0]


def _forward(terms: _Terms, examples: Any) -> tuple[tuple[jax.Array, jax.Array], tuple[Any, ...]]:
    size = examples[0].shape[-1]
    batch, length, groups, heads, width = terms.written.shape
    start = jnp.zeros((batch, groups, heads, width, terms.b.shape[-1]), jnp.float32)
    cut = _Terms(*map(partial(_chunks, size=size), terms))
    state, (y, states) = jax.lax.scan(_chunk, start, (cut, examples))
    whole = _whole(y, length)
    return (whole, state), (cut, examples, whole, states)


def _backward(saved: tuple[Any, ...], gradients: tuple[jax.Array, jax.Array]) -> tuple[_Terms, None]:
    """Go through the chunks from the last to the first.

    Gradients of decays need no product: exp(total[q] - total[k]) is a factor of each pair, so the gradient of total[q] is the gradient of y[q] times y[q],
    minus that of what q wrote times what it wrote (Yang et al. 2023, https://arxiv.org/abs/2312.06635).
    """
    terms, examples, y, states = saved
    of_y, of_state = gradients
    size, length = examples[0].shape[-1], y.shape[1]
    # The part of the gradient of `total` that the outputs give.
    own = _dots("blgrp,blgrp->blgr", of_y, y)
    given = (terms, examples, states, _chunks(of_y, size), _chunks(own, size))
    _, found = jax.lax.scan(_chunk_backward, of_state, given, reverse=True)
    return _Terms(*(_whole(part, length).astype(term.dtype) for part, term in zip(found, terms, strict=True))), None


_over_chunks.defvjp(_forward, _backward)


def _decays(log_decay: Float[Array, "B G R Q"], belongs: Belonging) -> _Decays:
    total = jnp.cumsum(log_decay, axis=-1)
    reads, writes = (one[:, None, None] for one in (belongs.reads, belongs.writes))
    return _Decays(
        pairs=pair_decay(jnp.moveaxis(total, -1, 1), belongs.pairs),
        carried=jnp.where(reads, jnp.exp(total), 0.0),
        left=jnp.where(writes, jnp.exp(total[..., -1:] - total), 0.0),
        kept=jnp.where(belongs.keeps[:, None, None], jnp.exp(total[..., -1]), 0.0),
    )


# Axes: b rows, q and k tokens of the chunk, g groups, r heads of a group, p width of a head, n width of b and c.


def _chunk(state: jax.Array, given: tuple[_Terms, Any]) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Process one chunk. Return the state after it; and the outputs [b g r p q] with the state before it."""
    (written, log_decay, b, c), examples = given
    kind, decays = written.dtype, _decays(log_decay, belonging(*examples))
    scores = jnp.einsum("bgnq,bgnk->bgqk", c, b)[:, :, None] * decays.pairs
    inside = jnp.einsum("bgrpk,bgrqk->bgrpq", written, scores.astype(kind))
    before = jnp.einsum("bgrpn,bgnq->bgrpq", state.astype(kind), c) * decays.carried[..., None, :]
    new = jnp.einsum("bgrpk,bgnk->bgrpn", (written * decays.left[..., None, :]).astype(kind), b)
    return state * decays.kept[..., None, None] + new, (inside + before, state)


def _chunk_backward(of_state: jax.Array, given: tuple[Any, ...]) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Return the gradient of the state before a chunk, and those of the terms of the chunk. of_state: that of the state after it."""
    (written, log_decay, b, c), examples, state, of_y, own = given
    kind, decays = written.dtype, _decays(log_decay, belonging(*examples))
    narrow, after, start = of_y.astype(kind), of_state.astype(kind), state.astype(kind)
    scores = (jnp.einsum("bgnq,bgnk->bgqk", c, b)[:, :, None] * decays.pairs).astype(kind)
    of_pairs = jnp.einsum("bgrpq,bgrpk->bgrqk", narrow, written)
    of_scores = _dots("bgrqk,bgrqk->bgqk", of_pairs, decays.pairs).astype(kind)
    at_end = jnp.einsum("bgrpn,bgnk->bgrpk", after, b) * decays.left[..., None, :]
    of_written = jnp.einsum("bgrpq,bgrqk->bgrpk", narrow, scores) + at_end
    read = (of_y * decays.carried[..., None, :]).astype(kind)
    left = (written * decays.left[..., None, :]).astype(kind)
    of_c = jnp.einsum("bgqk,bgnk->bgnq", of_scores, b) + jnp.einsum("bgrpn,bgrpq->bgnq", start, read)
    of_b = jnp.einsum("bgqk,bgnq->bgnk", of_scores, c) + jnp.einsum("bgrpn,bgrpk->bgnk", after, left)
    kept = of_state * decays.kept[..., None, None]
    # The state after the chunk has decayed by the last total.
    end = _dots("bgrpn,bgrpn->bgr", kept, state) + jnp.sum(_dots("bgrpk,bgrpk->bgrk", written, at_end), axis=-1)
    of_total = (own - _dots("bgrpk,bgrpk->bgrk", written, of_written)).at[..., -1].add(end)
    of_log_decay = jnp.flip(jnp.cumsum(jnp.flip(of_total, axis=-1), axis=-1), axis=-1)
    return kept + jnp.einsum("bgrpq,bgnq->bgrpn", read, c), (of_written, of_log_decay, of_b, of_c)


def _chunks(x: Float[Array, "B L *S"], size: int) -> Float[Array, "C B *S Q"]:
    """Cut rows into chunks of `size` tokens, with the tokens in the last axis."""
    return jnp.moveaxis(split(x, size), 2, -1)


def _whole(chunks: Float[Array, "C B *S Q"], length: int) -> Float[Array, "B L *S"]:
    """Invert `_chunks`."""
    return join(jnp.moveaxis(chunks, -1, 2), length)


def _dots(axes: str, one: jax.Array, other: jax.Array) -> jax.Array:
    """Return sums of products in float32. On a CPU, `jnp.sum(one * other)` over a short axis takes ten times as long."""
    wide = (x.astype(jnp.float32) for x in (one, other))
    return jnp.einsum(axes, *wide, precision=jax.lax.Precision.HIGHEST)


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
