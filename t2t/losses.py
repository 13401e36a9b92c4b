"""Losses as sums with their weights; whoever has the whole batch divides, once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Protocol

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from t2t import former_names, types


class Regularizers(Protocol):
    """What is added to the cross-entropy; `t2t.objectives.CrossEntropy` has it."""

    @property
    def z_loss(self) -> float:
        """Factor of log(Z)^2."""

    @property
    def label_smoothing(self) -> float:
        """Probability mass that is spread evenly over the vocabulary."""


@struct.dataclass
class LossSums:
    """Sums over weighted targets, float32 scalars; sums of shards or microbatches add up to those of the batch.

    objective: what is differentiated: smoothed cross-entropy + z-loss, in nats. Where the sums come from `t2t.chunked_cross_entropy`, the others have no gradient.
    loss:      what is reported as the loss: plain cross-entropy in nats.
    weight:    weight of all targets.
    z_loss:    the z-loss part of the objective; 0 where there is none.
    correct:   weight of the targets whose logit is the largest, or one of several such; 0 where nothing is counted.
    extra:     what else an objective reports, by the metric's name: a sum and the weight that its mean divides by.
    """

    objective: Float[Array, ""]
    loss: Float[Array, ""]
    weight: Float[Array, ""]
    z_loss: Float[Array, ""] = field(default_factory=lambda: jnp.zeros((), jnp.float32))
    correct: Float[Array, ""] = field(default_factory=lambda: jnp.zeros((), jnp.float32))
    extra: Mapping[str, tuple[Float[Array, ""], Float[Array, ""]]] = field(default_factory=dict)

    def __add__(self, other: LossSums) -> LossSums:
        return jax.tree.map(jnp.add, self, other)


def cross_entropy(
    logits: Float[Array, "*B V"], targets: Int[types.Array, "*B"], weights: Float[types.Array, "*B"], loss: Regularizers
) -> LossSums:
    """Return the sums of the cross-entropy of float32 logits.

    Targets are looked up by index: a product with one-hot targets would cost a pass over (B, L, V) more.
    """
    return _sums(logits.astype(jnp.float32), targets, weights, loss)[0]


def cross_entropy_and_gradient(
    logits: Float[Array, "*B V"], targets: Int[types.Array, "*B"], weights: Float[types.Array, "*B"], loss: Regularizers
) -> tuple[LossSums, Float[Array, "*B V"]]:
    """Return the sums, and the objective's gradient at float32 logits, from the formula: softmax less what is wanted.

    Differentiation would look the targets up backwards, by a scatter into as many zeros as there are logits.
    """
    logits = logits.astype(jnp.float32)
    sums, log_z = _sums(logits, targets, weights, loss)
    weights = jnp.asarray(weights, jnp.float32)[..., None]
    softmax = jnp.exp(logits - log_z[..., None])
    slope = 1.0 + 2.0 * loss.z_loss * log_z[..., None]
    hit = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1) == jnp.asarray(targets)[..., None]
    wanted = jnp.where(hit, 1.0 - loss.label_smoothing, 0.0) + loss.label_smoothing / logits.shape[-1]
    return sums, (slope * softmax - wanted) * weights


def _sums(
    logits: Float[Array, "*B V"], targets: Int[types.Array, "*B"], weights: Float[types.Array, "*B"], loss: Regularizers
) -> tuple[LossSums, Float[Array, "*B"]]:
    """Return the sums, and the logarithm of each softmax's normaliser."""
    # Relative to the largest logit, so that large logits do not swallow the difference that is wanted.
    largest = jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
    log_sum = jnp.log(jnp.sum(jnp.exp(logits - largest), axis=-1))
    largest = largest[..., 0]
    wanted = jnp.take_along_axis(logits, jnp.asarray(targets)[..., None], axis=-1)[..., 0] - largest
    plain = log_sum - wanted
    objective = plain
    if loss.label_smoothing:
        even = log_sum - (logits.mean(axis=-1) - largest)
        objective = (1 - loss.label_smoothing) * plain + loss.label_smoothing * even
    log_z = log_sum + largest
    z = loss.z_loss * jnp.square(log_z)
    # Not by argmax, which takes XLA on CPUs several times as long as all the rest.
    correct = (wanted >= 0).astype(jnp.float32)
    weights = jnp.asarray(weights, jnp.float32)
    sums = LossSums(
        objective=jnp.sum((objective + z) * weights),
        loss=jnp.sum(plain * weights),
        z_loss=jnp.sum(z * weights),
        correct=jnp.sum(correct * weights),
        weight=jnp.sum(weights),
    )
    return sums, log_z


if not TYPE_CHECKING:
    __getattr__ = former_names.of(__name__)
