"""Encoder heads that do not predict tokens: labels and numbers of texts, tags of words and answer spans (Devlin et al. 2019, sections 4.1 to 4.3)."""

from __future__ import annotations

import abc
from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from t2t.models.config import StackConfig
from t2t.nn.dropout import Keys, dropout
from t2t.nn.linear import Linear
from t2t.types import Tokens

PoolerActivation = Literal["tanh", "relu", "gelu"]
_POOLERS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "gelu": partial(jax.nn.gelu, approximate=False),
}
Pooling = Literal["first", "mean", "mean_scores"]

HIDDEN = -1e9
"""Score of a position that cannot be chosen. It is finite, so that the gradient of rows of only padding has no NaN."""


class AnswerHead(nnx.Module, abc.ABC):
    """A head that computes float32 scores from the output of the stack."""

    @abc.abstractmethod
    def __call__(self, hidden: Float[Array, "*B D"], keys: Keys) -> Float[Array, "*B K"]:
        """Return the scores of each position independently."""

    @abc.abstractmethod
    def logits(self, hidden: Float[Array, "B L D"], tokens: Tokens, keys: Keys) -> Float[Array, "B L K"]:
        """Return logits aligned with `Batch.targets`."""


class KeptPooler(nnx.Module):
    """The pooler of a published encoder (BERT's dense layer) in a model that predicts tokens, which neither uses nor trains it.

    It has the same path as the pooler of a `LabelHead`, so that fine-tuning can start from it.
    """

    def __init__(self, stack: StackConfig) -> None:
        init = stack.kernel_init(stack.d_model)
        self.pooler = Linear(stack.d_model, stack.d_model, ("embed", None), bias=True, init=init, trainable=False)


class LabelHead(AnswerHead):
    """Dropout and a linear layer that scores the labels at each position, or predicts numbers. With `pooler`, a dense layer and its activation come first.

    With `reference`, the score of the first label is 0, and the linear layer scores the others.
    """

    def __init__(
        self,
        stack: StackConfig,
        labels: int,
        *,
        pooler: bool,
        rate: float,
        activation: PoolerActivation,
        reference: bool = False,
    ) -> None:
        init = stack.kernel_init(stack.d_model)
        self.rate, self.reference = rate, reference
        self.activation: str = activation
        self.pooler = Linear(stack.d_model, stack.d_model, ("embed", None), bias=True, init=init) if pooler else None
        self.output = Linear(stack.d_model, labels - reference, ("embed", None), bias=True, init=init)

    def __call__(self, hidden: Float[Array, "*B D"], keys: Keys) -> Float[Array, "*B K"]:
        """Return the scores of the labels."""
        x = hidden if self.pooler is None else _POOLERS[self.activation](self.pooler(hidden))
        scores = self.output(dropout(x, self.rate, keys.next()).astype(jnp.float32))
        return jnp.concatenate([jnp.zeros_like(scores[..., :1]), scores], -1) if self.reference else scores

    def logits(self, hidden: Float[Array, "B L D"], tokens: Tokens, keys: Keys) -> Float[Array, "B L K"]:
        """Return the scores of the labels."""
        return self(hidden, keys)


class SpanHead(AnswerHead):
    """A linear layer that scores each token as the first and as the last token of the span.

    The logits at an example's first position score the first token of the span, over the positions of that example counted from its start. The logits at all
    other positions score the last token. So the logits do not depend on where the example is in a packed row.
    """

    def __init__(self, stack: StackConfig) -> None:
        self.output = Linear(stack.d_model, 2, ("embed", None), bias=True, init=stack.kernel_init(stack.d_model))

    def __call__(self, hidden: Float[Array, "*B D"], keys: Keys) -> Float[Array, "*B 2"]:
        """Return the scores of each token as the first and as the last token of the span."""
        return self.output(hidden.astype(jnp.float32))

    def logits(self, hidden: Float[Array, "B L D"], tokens: Tokens, keys: Keys) -> Float[Array, "B L L"]:
        """Return the scores of the positions of each example, and `HIDDEN` for positions outside of it."""
        return pointers(self(hidden, keys), jnp.asarray(tokens.positions), jnp.asarray(tokens.segments))


def averaged(x: Float[Array, "B L K"], segments: Int[Array, "B L"]) -> Float[Array, "B L K"]:
    """Return for each position the mean over the positions of its example, in float32. `segments` are at most L; padding has segment 0."""

    def means(values: Float[Array, "L K"], owners: Int[Array, "L"]) -> Float[Array, "L K"]:
        total = partial(jax.ops.segment_sum, segment_ids=owners, num_segments=len(owners) + 1)
        counts = total(jnp.ones_like(owners, jnp.float32))
        return (total(values.astype(jnp.float32)) / jnp.maximum(counts, 1.0)[:, None])[owners]

    return jax.vmap(means)(x, segments)


def pointers(
    scores: Float[Array, "B L 2"], positions: Int[Array, "B L"], segments: Int[Array, "B L"]
) -> Float[Array, "B L L"]:
    """Return for position q the scores of positions 0, 1, ... of its example: as first token of the span if q is position 0, else as last."""
    length = positions.shape[1]
    position = jax.lax.iota(jnp.int32, length)
    starts = position[None] - positions
    index = starts[:, :, None] + position
    clipped = jnp.clip(index, 0, length - 1)
    flat = scores.swapaxes(1, 2).reshape(scores.shape[0], 1, 2 * length)
    chosen = jnp.take_along_axis(flat, clipped + jnp.where(positions == 0, 0, length)[:, :, None], axis=2)
    index_segments = jnp.take_along_axis(segments[:, None, :], clipped, axis=2)
    valid = (index < length) & (index_segments == segments[:, :, None]) & (segments > 0)[:, :, None]
    return jnp.where(valid, chosen, HIDDEN)
