"""One token after another, each the likeliest or drawn at random."""

from __future__ import annotations

import operator
from dataclasses import dataclass
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


class State(NamedTuple):
    """Where a search stands: tokens chosen, the last of each row, and the model's cache."""

    place: Int[Array, ""]
    last: Int[Array, R]
    ids: Int[Array, "R L"]
    scores: Float[Array, R]
    ended: Array
    cache: Any


@dataclass(frozen=True, kw_only=True)
class Draw:
    """A search that takes one token after another for each row, `length` at most.

    ends:      the ids any of which ends a row.
    forbidden: [V], ids never to be chosen.
    keys:      [R], needed to sample: one for each row that is generated, see `keys_of_rows`.

    Scores are the sums of the chosen tokens' log-probabilities under the model itself (temperature 1, nothing cut).
    """

    model: Model
    params: Params
    decoding: Greedy | Sampling
    length: int
    ends: tuple[int, ...]
    forbidden: Array
    keys: Array | None

    def begin(self, prompt: Batch, room: int) -> State:
        """Return the state after the first token, with a cache for `room` positions, prompt included."""
        assert prompt.decoder is not None
        count = self.decoding.outputs
        logits, cache = self.model.start(self.params, prompt, room)
        ended = ~jnp.any(prompt.decoder.segments > 0, axis=1)
        if count > 1:
            rows = jnp.repeat(jnp.arange(ended.shape[0]), count)
            logits, ended, cache = logits[rows], ended[rows], self.model.fork(cache, count)
        size = ended.shape[0]
        state = State(
            place=jnp.int32(0),
            last=jnp.zeros(size, jnp.int32),
            ids=jnp.zeros((size, self.length), jnp.int32),
            scores=jnp.zeros(size, jnp.float32),
            ended=ended,
            cache=cache,
        )
        return self._take(state, logits)

    def goes_on(self, state: State) -> Bool[Array, ""]:
        """Whether there is anything left to generate."""
        return (state.place < self.length) & ~jnp.all(state.ended)

    def advance(self, state: State, until: int) -> State:
        """Generate until each row has `until` tokens or nothing is left to generate."""
        step = self.model.stepper(self.params)

        def body(state: State) -> State:
            logits, cache = step(state.cache, state.last)
            return self._take(state._replace(cache=cache), logits)

        return jax.lax.while_loop(lambda state: (state.place < until) & self.goes_on(state), body, state)

    def finish(self, state: State) -> tuple[Int[Array, "B N L"], Float[Array, "B N"]]:
        """Return what was generated, and its scores."""
        count = self.decoding.outputs
        return state.ids.reshape(-1, count, self.length), state.scores.reshape(-1, count)

    def _take(self, state: State, logits: Float[Array, "R V"]) -> State:
        logits = logits.astype(jnp.float32)
        if platform() == "cpu":
            # XLA's CPU compiler would make its passes over the logits part of the product that makes them, which takes longer.
            logits = jax.lax.optimization_barrier(logits)
        token = choose(jnp.where(self.forbidden, -jnp.inf, logits), self.decoding, self.keys, state.place)
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
            ended=state.ended | is_end(token, self.ends),
        )


def keys_of_rows(keys: Array, count: int) -> Array:
    """Return a random key for each of the `count` sequences of each prompt, [B count], from the prompts' keys."""
    return jax.vmap(lambda key: jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(count)))(keys).reshape(-1)
