"""Log-probabilities of given targets, and predictions for masked positions."""

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
    """Log-probability of each target of a batch, and the prediction at its position.

    log_probs: natural log-probability of each target, given all tokens that the model attends to.
    predicted: the most likely id. For a span head, positions 0 and 1 hold the first and last position of the most likely valid span.
    """

    log_probs: Float[Array, "B L"]
    predicted: Int[Array, "B L"]


@struct.dataclass
class Filled:
    """The most likely ids at each mask, best first, with their probabilities."""

    ids: Int[Array, "B M T"]
    probabilities: Float[Array, "B M T"]


@partial(jax.jit, static_argnums=0)
def token_scores(model: Model, params: Params, batch: Batch) -> TokenScores:
    """Return the teacher-forced log-probability of every target, and the predictions. Weights are not applied."""
    logits = model.logits(params, batch).astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, batch.targets[..., None], axis=-1)[..., 0]
    predicted = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    if model.config.can("find_span"):  # One example per row.
        spans = best_spans(logits)
        predicted = predicted.at[:, 0].set(spans.first).at[:, 1].set(spans.last)
    return TokenScores(log_probs=chosen - jax.nn.logsumexp(logits, axis=-1), predicted=predicted)


@partial(jax.jit, static_argnums=0)
def score(model: Model, params: Params, batch: Batch) -> Float[Array, B]:
    """Return, for each row, the weighted sum of the targets' log-probabilities in nats; 0 for a padding row."""
    weights = jnp.asarray(batch.weights)
    log_probs = token_scores(model, params, batch).log_probs
    return jnp.sum(jnp.where(weights > 0, log_probs * weights, 0.0), axis=1)


@partial(jax.jit, static_argnums=(0, 4))
def fill_mask(model: Model, params: Params, batch: Batch, places: Int[Array, "B M"], top: int = 5) -> Filled:
    """Return the encoder's `top` most likely ids at the given positions of `batch.encoder`.

    places: positions, [B, M]. A row with fewer masks repeats any position; its result is then repeated too.

    The masks are predicted independently of each other: this is not a joint distribution.
    """
    hidden = model.hidden(params, batch)
    at_masks = jnp.take_along_axis(hidden, places[..., None], axis=1)
    probabilities = jax.nn.softmax(model.head(params, at_masks).astype(jnp.float32), axis=-1)
    best, ids = jax.lax.top_k(probabilities, min(top, probabilities.shape[-1]))
    return Filled(ids=ids, probabilities=best)
