"""Greedy decoding and sampling, one token at a time."""

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
    """Return the logits and ids of the `top_k` most likely tokens, most likely first. Logits outside the nucleus of probability `top_p` are -inf.

    With top_k 0 and top_p 1, return all logits in the order of ids, and None for the ids. Ties are broken by the lower id.
    Sampling from few tokens is faster: it needs fewer random numbers and no passes over the whole vocabulary.
    """
    vocab = logits.shape[-1]
    count = min(top_k or vocab, vocab)
    if count == vocab and top_p >= 1:
        return logits, None
    highest, ids = jax.lax.top_k(logits, count)
    probabilities = jax.nn.softmax(highest, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    # `before` is 0 for the most likely token, so at least one token remains.
    return jnp.where(before < top_p, highest, -jnp.inf), ids


def first_highest(logits: Float[Array, "*B V"]) -> Int[Array, "*B"]:
    """Return the first index of each row's maximum, or of its first NaN, like `argmax`, which takes the CPU compiler of XLA three times as long."""
    vocab = logits.shape[-1]
    highest = jnp.max(logits, axis=-1, keepdims=True)
    place = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    # On CPUs, XLA may return a maximum that ignores NaN, so NaN gets the first rank explicitly.
    rank = jnp.where(jnp.isnan(logits), place, jnp.where(logits == highest, vocab + place, 2 * vocab - 1))
    return jnp.min(rank, axis=-1) % vocab


def choose(
    logits: Float[Array, "R V"], decoding: Greedy | Sampling, keys: Array | None, place: Int[Array, ""]
) -> Int[Array, R]:
    """Return each row's next token. keys: random key of each row, [R]. place: index of the token."""
    if isinstance(decoding, Greedy):
        return first_highest(logits)
    assert keys is not None
    logits, ids = candidates(logits / decoding.temperature, decoding.top_k, decoding.top_p)
    step_keys = jax.vmap(partial(jax.random.fold_in, data=place))(keys)
    sampled = jax.vmap(jax.random.categorical)(step_keys, logits).astype(jnp.int32)
    return sampled if ids is None else jnp.take_along_axis(ids, sampled[:, None], axis=1)[:, 0]


def is_end(token: Int[Array, "*B"], ends: tuple[int, ...]) -> Bool[Array, "*B"]:
    """Return whether each token is an end id."""
    return reduce(operator.or_, (token == end for end in ends))


class State(NamedTuple):
    """State of decoding: the chosen tokens, the last token of each row, and the model's cache."""

    place: Int[Array, ""]
    last: Int[Array, R]
    ids: Int[Array, "R L"]
    scores: Float[Array, R]
    ended: Array
    cache: Any


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Greedy decoding or sampling of at most `length` tokens per row.

    ends:      end ids: each of them ends a row.
    forbidden: [V], ids that are never chosen.
    keys:      random key of each generated row, [R] (see `keys_of_rows`). Needed only for sampling.

    Scores are sums of the chosen tokens' log-probabilities under the model (temperature 1, no top_k, no top_p).
    """

    model: Model
    params: Params
    decoding: Greedy | Sampling
    length: int
    ends: tuple[int, ...]
    forbidden: Array
    keys: Array | None

    def begin(self, prompt: Batch, room: int) -> State:
        """Return the state after the first token, with a cache of `room` positions, prompt included."""
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
        return self._append(state, logits)

    def goes_on(self, state: State) -> Bool[Array, ""]:
        """Whether there are more tokens to generate."""
        return (state.place < self.length) & ~jnp.all(state.ended)

    def advance(self, state: State, until: int) -> State:
        """Generate until each row has `until` tokens or decoding is finished."""
        step = self.model.stepper(self.params)

        def body(state: State) -> State:
            logits, cache = step(state.cache, state.last)
            return self._append(state._replace(cache=cache), logits)

        return jax.lax.while_loop(lambda state: (state.place < until) & self.goes_on(state), body, state)

    def finish(self, state: State) -> tuple[Int[Array, "B N L"], Float[Array, "B N"]]:
        """Return the generated ids and their scores."""
        count = self.decoding.outputs
        return state.ids.reshape(-1, count, self.length), state.scores.reshape(-1, count)

    def _append(self, state: State, logits: Float[Array, "R V"]) -> State:
        logits = logits.astype(jnp.float32)
        if platform() == "cpu":
            # Otherwise XLA fuses the passes over the logits with the matrix product on CPUs, which is slower.
            logits = jax.lax.optimization_barrier(logits)
        token = choose(jnp.where(self.forbidden, -jnp.inf, logits), self.decoding, self.keys, state.place)
        token = jnp.where(state.ended, 0, token)
        # The log-probability of the chosen token only.
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
    """Return a random key for each of the `count` sequences of each prompt, [B * count], from the keys of the prompts."""
    return jax.vmap(lambda key: jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(count)))(keys).reshape(-1)
