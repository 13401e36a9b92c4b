"""Beam search.

A beam holds `size` hypotheses, ranked by length-normalised score. A finished hypothesis stays in the beam while it ranks high enough, so a
beam of size 1 is greedy decoding. The best finished hypotheses are also stored separately, so none is lost to an unfinished one that ranks
higher for a while. The search of a row stops when no unfinished hypothesis can still be among the results.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from t2t.decode.config import Beam
from t2t.decode.sampling import is_end
from t2t.nn.model import Model
from t2t.types import Batch, Params


class State(NamedTuple):
    """State of a search: the beam, the best finished hypotheses, and the model's cache."""

    place: Int[Array, ""]
    ids: Int[Array, "B K L"]
    log_probs: Float[Array, "B K"]  # -inf: no hypothesis.
    lengths: Int[Array, "B K"]
    ended: Bool[Array, "B K"]
    last: Int[Array, "B K"]
    done_ids: Int[Array, "B K L"]  # The best finished hypotheses, best first.
    done_scores: Float[Array, "B K"]
    empty: Bool[Array, B]  # Rows without a prompt.
    cache: Any


def penalty(length: Array | int, alpha: float) -> Array:
    """Return the length penalty, which divides a log-probability of `length` tokens (Wu et al. 2016, eq. 14)."""
    return ((5.0 + jnp.asarray(length, jnp.float32)) / 6.0) ** alpha


def _pick(values: Array, index: Int[Array, "B K"]) -> Array:
    return jnp.take_along_axis(values, index.reshape(index.shape + (1,) * (values.ndim - 2)), axis=1)


@dataclass(frozen=True, kw_only=True)
class Search:
    """Beam search for the `decoding.return_n` best hypotheses, best first, with their length-normalised scores.

    Finished hypotheses come before those cut off by the maximum length. If there are fewer than `return_n`, the rest is padding with a
    score of -inf.

    length:    maximum number of generated tokens.
    ends:      end ids: each of them finishes a hypothesis.
    forbidden: [V], ids that are never chosen.
    """

    model: Model
    params: Params
    decoding: Beam
    length: int
    ends: tuple[int, ...]
    forbidden: Bool[Array, V]

    def begin(self, prompt: Batch, room: int) -> State:
        """Return the state after the first token, with a cache of `room` positions, prompt included."""
        assert prompt.decoder is not None
        batch, size, length = prompt.decoder.ids.shape[0], self.decoding.size, self.length
        logits, cache = self.model.start(self.params, prompt, room)
        empty = ~jnp.any(prompt.decoder.segments > 0, axis=1)
        state = State(
            place=jnp.int32(0),
            ids=jnp.zeros((batch, size, length), jnp.int32),
            log_probs=jnp.where((jnp.arange(size) == 0) & ~empty[:, None], 0.0, -jnp.inf),
            lengths=jnp.zeros((batch, size), jnp.int32),
            ended=jnp.zeros((batch, size), bool),
            last=jnp.zeros((batch, size), jnp.int32),
            done_ids=jnp.zeros((batch, size, length), jnp.int32),
            done_scores=jnp.full((batch, size), -jnp.inf),
            empty=empty,
            cache=self.model.fork(cache, size),
        )
        # All hypotheses extend the same prompt, so the caches need no reordering yet.
        return self._extend(state, jnp.repeat(logits, size, axis=0))[0]

    def goes_on(self, state: State) -> Bool[Array, ""]:
        """Whether an unfinished hypothesis can still be among the results."""
        alive = jnp.max(jnp.where(state.ended, -jnp.inf, state.log_probs), axis=1)
        # An upper bound: more tokens never raise a log-probability, and the penalty is largest at full length.
        best_possible = alive / penalty(self.length, self.decoding.length_penalty)
        can_win = jnp.isfinite(alive) & (best_possible > state.done_scores[:, self.decoding.return_n - 1])
        return (state.place < self.length) & jnp.any(can_win)

    def advance(self, state: State, until: int) -> State:
        """Search until the hypotheses have `until` tokens or the search is finished."""
        step = self.model.stepper(self.params)
        first_row = jnp.arange(state.ids.shape[0])[:, None] * self.decoding.size

        def body(state: State) -> State:
            logits, cache = step(state.cache, state.last.reshape(-1))
            state, parent = self._extend(state, logits)
            return state._replace(cache=self.model.reorder(cache, (first_row + parent).reshape(-1)))

        return jax.lax.while_loop(lambda state: (state.place < until) & self.goes_on(state), body, state)

    def finish(self, state: State) -> tuple[Int[Array, "B N L"], Float[Array, "B N"]]:
        """Return the best hypotheses and their scores."""
        size = self.decoding.size
        cut = state.log_probs / penalty(state.lengths, self.decoding.length_penalty)
        scores = jnp.concatenate([state.done_scores, jnp.where(state.ended, -jnp.inf, cut)], axis=1)
        ids = jnp.concatenate([state.done_ids, state.ids], axis=1)
        unfinished = jnp.arange(2 * size) >= jnp.sum(jnp.isfinite(state.done_scores), axis=1, keepdims=True)
        order = jnp.lexsort((-scores, unfinished), axis=-1)[:, : self.decoding.return_n]
        scores, ids = _pick(scores, order), _pick(ids, order)
        ids = jnp.where(jnp.isfinite(scores)[..., None], ids, 0)
        return ids, jnp.where(state.empty[:, None], 0.0, scores)

    def _extend(self, state: State, logits: Float[Array, "BK V"]) -> tuple[State, Int[Array, "B K"]]:
        """Extend all hypotheses by every token and keep the best. Also return the parent of each new hypothesis."""
        vocab, alpha = logits.shape[-1], self.decoding.length_penalty
        batch, size = state.ended.shape
        gains = jnp.where(self.forbidden, -jnp.inf, jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1))
        # A finished hypothesis is kept through a single column, that of the first end id, with a gain of 0. Its token becomes padding (0).
        stay = jnp.where(jnp.arange(vocab) == self.ends[0], 0.0, -jnp.inf)
        gains = jnp.where(state.ended[..., None], stay, gains.reshape(batch, size, vocab))
        lengths = state.lengths + ~state.ended
        totals = state.log_probs[..., None] + gains
        normalised = totals / penalty(lengths, alpha)[..., None]
        scores, index = jax.lax.top_k(normalised.reshape(batch, size * vocab), size)
        parent, token = index // vocab, (index % vocab).astype(jnp.int32)
        was_ended = _pick(state.ended, parent)
        ends_now = is_end(token, self.ends) & ~was_ended & jnp.isfinite(scores)
        token = jnp.where(was_ended, 0, token)
        ids = jax.lax.dynamic_update_index_in_dim(_pick(state.ids, parent), token, state.place, axis=2)
        done_scores, best = jax.lax.top_k(
            jnp.concatenate([state.done_scores, jnp.where(ends_now, scores, -jnp.inf)], axis=1), size
        )
        return state._replace(
            place=state.place + 1,
            ids=ids,
            log_probs=jnp.take_along_axis(totals.reshape(batch, size * vocab), index, axis=1),
            lengths=_pick(lengths, parent),
            ended=was_ended | ends_now,
            last=token,
            done_ids=_pick(jnp.concatenate([state.done_ids, ids], axis=1), best),
            done_scores=done_scores,
        ), parent
