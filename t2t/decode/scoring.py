"""How likely given targets are, and what stands at masked places."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from t2t.decode.answer_text import best_spans
from t2t.nn.model import Model
from t2t.types import Batch, Params


@struct.dataclass
class TokenScores:
    """Place by place, what the model makes of a batch's targets.

    log_probs: natural log-probability of each target, given all that it may see.
    predicted: the likeliest id; of a head for spans, at the first two places, the likeliest span that does not end before it begins.
    """

    log_probs: Float[Array, "B L"]
    predicted: Int[Array, "B L"]


@struct.dataclass
class Filled:
    """The likeliest ids at each mask, best first, with their probabilities."""

    ids: Int[Array, "B M T"]
    probabilities: Float[Array, "B M T"]


@partial(jax.jit, static_argnums=0)
def token_scores(model: Model, params: Params, batch: Batch) -> TokenScores:
    """Return the teacher-forced log-probability of every target and the prediction beside it, weights not applied."""
    logits = model.logits(params, batch).astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, batch.targets[..., None], axis=-1)[..., 0]
    predicted = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    if model.config.can("find_span"):  # one example a row
        spans = best_spans(logits)
        predicted = predicted.at[:, 0].set(spans.first).at[:, 1].set(spans.last)
    return TokenScores(log_probs=chosen - jax.nn.logsumexp(logits, axis=-1), predicted=predicted)


@partial(jax.jit, static_argnums=0)
def score(model: Model, params: Params, batch: Batch) -> Float[Array, B]:
    """Return each row's sum of the targets' log-probabilities times their weights, in nats; 0 for a row of padding."""
    weights = jnp.asarray(batch.weights)
    log_probs = token_scores(model, params, batch).log_probs
    return jnp.sum(jnp.where(weights > 0, log_probs * weights, 0.0), axis=1)


@partial(jax.jit, static_argnums=(0, 4))
def fill_mask(model: Model, params: Params, batch: Batch, places: Int[Array, "B M"], top: int = 5) -> Filled:
    """Return an encoder's `top` likeliest ids at each of the given places of `batch.encoder`.

    Rows with fewer masks repeat any place; the repetitions answer for that place. Each distribution is that of one place
    with all the masks unknown, not a joint one.
    """
    hidden = model.hidden(params, batch)
    there = jnp.take_along_axis(hidden, places[..., None], axis=1)
    probabilities = jax.nn.softmax(model.head(params, there).astype(jnp.float32), axis=-1)
    best, ids = jax.lax.top_k(probabilities, min(top, probabilities.shape[-1]))
    return Filled(ids=ids, probabilities=best)
