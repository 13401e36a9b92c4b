"""One token after another, each the likeliest or drawn at random."""

from __future__ import annotations

import operator
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from t2t.decode.config import Greedy, Sampling
from t2t.nn.model import Model
from t2t.sharding import platform
from t2t.types import Batch, Params


def candidates(
    logits: Float[Array, "*B V"], top_k: int, top_p: float
) -> tuple[Float[Array, "*B K"], Int[Array, "*B K"] | None]:
    """Return the tokens to draw from, likeliest first, as logits and ids: the top k of them, -inf where outside the nucleus of probability p.

    0 and 1 leave all in; then they are in order of their ids, which are None. Of equally likely ones at the edge the first are in. Drawing from few costs
    random numbers and passes for few, not for the vocabulary.
    """
    vocab = logits.shape[-1]
    count = min(top_k or vocab, vocab)
    if count == vocab and top_p >= 1:
        return logits, None
    highest, ids = jax.lax.top_k(logits, count)
    probabilities = jax.nn.softmax(highest, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    # The likeliest token has nothing before it, so at least one always stays.
    return jnp.where(before < top_p, highest, -jnp.inf), ids


def first_highest(logits: Float[Array, "*B V"]) -> Int[Array, "*B"]:
    """Return where the highest of each row first stands, or the first NaN: `argmax`, which takes XLA's CPU compiler three times as long."""
    vocab = logits.shape[-1]
    highest = jnp.max(logits, axis=-1, keepdims=True)
    place = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    # XLA's CPU compiler may give a largest number of a row with a NaN: a NaN comes before all others by itself.
    rank = jnp.where(jnp.isnan(logits), place, jnp.where(logits == highest, vocab + place, 2 * vocab - 1))
    return jnp.min(rank, axis=-1) % vocab


def choose(
    logits: Float[Array, "R V"], decoding: Greedy | Sampling, keys: Array | None, place: Int[Array, ""]
) -> Int[Array, R]:
    """Return each row's next token; `keys [R]` are the rows' random keys, `place` the number of the token."""
    if isinstance(decoding, Greedy):
        return first_highest(logits)
    assert keys is not None
    logits, ids = candidates(logits / decoding.temperature, decoding.top_k, decoding.top_p)
    here = jax.vmap(partial(jax.random.fold_in, data=place))(keys)
    drawn = jax.vmap(jax.random.categorical)(here, logits).astype(jnp.int32)
    return drawn if ids is None else jnp.take_along_axis(ids, drawn[:, None], axis=1)[:, 0]


def is_end(token: Int[Array, "*B"], ends: tuple[int, ...]) -> Bool[Array, "*B"]:
    """Return where a token is one of those that end a sequence: the few are compared one by one."""
    return reduce(operator.or_, (token == end for end in ends))


class _State(NamedTuple):
    place: Int[Array, ""]
    last: Int[Array, R]
    ids: Int[Array, "R L"]
    scores: Float[Array, R]
    ended: Array
    cache: Any


def search(
    model: Model,
    params: Params,
    prompt: Batch,
    decoding: Greedy | Sampling,
    *,
    length: int,
    ends: tuple[int, ...],
    forbidden: Array,
    keys: Array | None,
) -> tuple[Int[Array, "B N L"], Float[Array, "B N"]]:
    """Decode `length` tokens at most. `keys [B]` are needed to sample; `forbidden [V]` marks ids never to be chosen; any of `ends` ends a row.

    Scores are the sums of the chosen tokens' log-probabilities under the model itself (temperature 1, nothing cut).
    """
    assert prompt.decoder is not None
    batch, room = prompt.decoder.ids.shape[0], prompt.decoder.ids.shape[1] + length - 1
    count = decoding.outputs
    logits, cache = model.start(params, prompt, room)
    ended = ~jnp.any(prompt.decoder.segments > 0, axis=1)
    if count > 1:
        rows = jnp.repeat(jnp.arange(batch), count)
        logits, ended, cache = logits[rows], ended[rows], model.fork(cache, count)
    if keys is not None:
        keys = jax.vmap(lambda key: jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(count)))(keys).reshape(-1)

    def take(state: _State, logits: Float[Array, "R V"]) -> _State:
        logits = logits.astype(jnp.float32)
        if platform() == "cpu":
            # XLA's CPU compiler would make its passes over the logits part of the product that makes them, which takes longer.
            logits = jax.lax.optimization_barrier(logits)
        token = choose(jnp.where(forbidden, -jnp.inf, logits), decoding, keys, state.place)
        token = jnp.where(state.ended, 0, token)
        # The logarithm of its probability alone: those of the others are asked by nobody.
        highest = jnp.max(logits, axis=-1, keepdims=True)
        chosen = jnp.take_along_axis(logits, token[:, None], axis=1)
        gained = (chosen - highest - jnp.log(jnp.sum(jnp.exp(logits - highest), axis=-1, keepdims=True)))[:, 0]
        return state._replace(
            place=state.place + 1,
            last=token,
            ids=jax.lax.dynamic_update_index_in_dim(state.ids, token, state.place, axis=1),
            scores=state.scores + jnp.where(state.ended, 0.0, gained),
            ended=state.ended | is_end(token, ends),
        )

    step = model.stepper(params)

    def go_on(state: _State) -> Array:
        return (state.place < length) & ~jnp.all(state.ended)

    def body(state: _State) -> _State:
        logits, cache = step(state.cache, state.last)
        return take(state._replace(cache=cache), logits)

    size = batch * count
    begin = _State(
        place=jnp.int32(0),
        last=jnp.zeros(size, jnp.int32),
        ids=jnp.zeros((size, length), jnp.int32),
        scores=jnp.zeros(size, jnp.float32),
        ended=ended,
        cache=cache,
    )
    end = jax.lax.while_loop(go_on, body, take(begin, logits))
    return end.ids.reshape(batch, count, length), end.scores.reshape(batch, count)
