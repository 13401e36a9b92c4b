"""A running mean of the parameters, for evaluation and inference."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from t2t.limits import Configuration, Momentum
from t2t.types import Params


@dataclass(frozen=True, kw_only=True)
class Ema(Configuration):
    """An exponential running mean of the trainable parameters (Polyak & Juditsky 1992), which is used in their place after training.

    After each update, mean = d * mean + (1 - d) * parameters, where d is the smaller of `decay` and (1 + n) / (10 + n) after n earlier updates.
    So the mean of a short training has little of the initial parameters (`num_updates` of TensorFlow's tf.train.ExponentialMovingAverage).

    Args:
        decay: decay rate of the mean, for example 0.999. None keeps no mean.
    """

    decay: Momentum | None = None

    def updated(self, mean: Params, params: Params, updates: Int[Array, ""]) -> Params:
        """Return the mean after an update. params: the parameters after it. updates: the number of updates before it."""
        assert self.decay is not None, "there is a mean"
        # 1 - d is computed directly: in float32, d itself would lose digits.
        share = jnp.maximum(1.0 - self.decay, 9.0 / (10.0 + updates.astype(jnp.float32)))
        return jax.tree.map(lambda old, new: old + share * (new - old), mean, params)
