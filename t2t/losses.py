"""Losses as weighted sums. The loss of a batch is the sum divided by the total weight, computed once for the whole batch."""

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
    """Regularizers of the cross-entropy. `t2t.objectives.CrossEntropy` implements this protocol."""

    @property
    def z_loss(self) -> float:
        """Factor of log(Z)^2."""

    @property
    def label_smoothing(self) -> float:
        """Probability mass that is distributed uniformly over the vocabulary."""


@struct.dataclass
class LossSums:
    """Weighted sums over targets, as float32 scalars. The sums of a batch are the sums over its shards or microbatches.

    objective: the differentiated value: smoothed cross-entropy + z-loss, in nats. With `t2t.chunked_cross_entropy`, only this field has a gradient.
    loss:      the reported loss: plain cross-entropy in nats.
    weight:    total weight of the targets.
    z_loss:    the z-loss part of the objective; 0 without z-loss.
    correct:   weight of the targets with the largest logit, ties included; 0 if accuracy is not computed.
    extra:     other metrics of an objective: name -> (sum, weight). The metric is the sum divided by the weight.
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
    """Return the sums of the cross-entropy. Logits are converted to float32.

    The target's logit is looked up by index. A product with one-hot targets would need another pass over (B, L, V).
    """
    return _sums(logits.astype(jnp.float32), targets, weights, loss)[0]


def binary_cross_entropy(
    logits: Float[Array, "*B K"], targets: Float[types.Array, "*B K"], weights: Float[types.Array, "*B"]
) -> LossSums:
    """Return the sums of the binary cross-entropy of independent labels, in nats: of each text, the mean over its K labels.

    targets: 1 for a label that the text has, else 0. `correct` counts the labels on the right side of probability 0.5, as a share of K.
    """
    logits, targets = logits.astype(jnp.float32), jnp.asarray(targets, jnp.float32)
    # log(1 + exp(l)) - t l, without overflow.
    each = jnp.maximum(logits, 0.0) - logits * targets + jnp.log1p(jnp.exp(-jnp.abs(logits)))
    right = ((logits > 0) == (targets > 0.5)).astype(jnp.float32)
    weights = jnp.asarray(weights, jnp.float32)
    total = jnp.sum(each.mean(axis=-1) * weights)
    return LossSums(
        objective=total, loss=total, correct=jnp.sum(right.mean(axis=-1) * weights), weight=jnp.sum(weights)
    )


def squared_error(
    predictions: Float[Array, "*B K"], targets: Float[types.Array, "*B K"], weights: Float[types.Array, "*B"]
) -> LossSums:
    """Return the sums of the squared error: of each text, the mean over its K numbers. There is no accuracy."""
    each = jnp.square(predictions.astype(jnp.float32) - jnp.asarray(targets, jnp.float32))
    weights = jnp.asarray(weights, jnp.float32)
    total = jnp.sum(each.mean(axis=-1) * weights)
    return LossSums(objective=total, loss=total, weight=jnp.sum(weights))


def cross_entropy_and_gradient(
    logits: Float[Array, "*B V"], targets: Int[types.Array, "*B"], weights: Float[types.Array, "*B"], loss: Regularizers
) -> tuple[LossSums, Float[Array, "*B V"]]:
    """Return the sums, and the gradient of the objective with respect to the float32 logits.

    The gradient is computed directly as softmax minus target distribution. Automatic differentiation of the lookup would need a scatter into an
    array of the size of the logits.
    """
    logits = logits.astype(jnp.float32)
    sums, log_z = _sums(logits, targets, weights, loss)
    weights = jnp.asarray(weights, jnp.float32)[..., None]
    softmax = jnp.exp(logits - log_z[..., None])
    scale = 1.0 + 2.0 * loss.z_loss * log_z[..., None]
    hit = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1) == jnp.asarray(targets)[..., None]
    target = jnp.where(hit, 1.0 - loss.label_smoothing, 0.0) + loss.label_smoothing / logits.shape[-1]
    return sums, (scale * softmax - target) * weights


def _sums(
    logits: Float[Array, "*B V"], targets: Int[types.Array, "*B"], weights: Float[types.Array, "*B"], loss: Regularizers
) -> tuple[LossSums, Float[Array, "*B"]]:
    """Return the sums, and log(Z) of each softmax."""
    # Subtract the largest logit first, so that large logits do not lose the precision of small differences.
    largest = jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
    log_sum = jnp.log(jnp.sum(jnp.exp(logits - largest), axis=-1))
    largest = largest[..., 0]
    target_logit = jnp.take_along_axis(logits, jnp.asarray(targets)[..., None], axis=-1)[..., 0] - largest
    plain = log_sum - target_logit
    objective = plain
    if loss.label_smoothing:
        uniform = log_sum - (logits.mean(axis=-1) - largest)
        objective = (1 - loss.label_smoothing) * plain + loss.label_smoothing * uniform
    log_z = log_sum + largest
    z = loss.z_loss * jnp.square(log_z)
    # Without argmax, which takes several times as long as everything else here on CPUs.
    correct = (target_logit >= 0).astype(jnp.float32)
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
