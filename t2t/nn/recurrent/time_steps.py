"""Time steps and decay rates of state-space layers, and their initial values (Gu et al. 2022, "S4D"; Gu and Dao 2023, section 3.6)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp

from t2t.errors import UserError
from t2t.limits import Configuration, Range
from t2t.nn.initializers import Initializer

_Step = Annotated[float, Range(1e-9, 1e3)]


@dataclass(frozen=True, kw_only=True)
class TimeSteps(Configuration):
    """Initial time steps of a state-space layer: log-uniform from `low` to `high`.

    Args:
        low: smallest initial step.
        high: largest initial step.
        floor: smaller steps are set to this.
    """

    low: _Step = 0.001
    high: _Step = 0.1
    floor: _Step = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low > self.high:
            raise UserError(
                f"time_steps.low is {self.low}, more than time_steps.high = {self.high}. Nearest: {self.high}."
            )

    @property
    def initializer(self) -> Initializer:
        """The initializer of the bias to which softplus is applied."""
        return _StepBias(self.low, self.high, self.floor)


@dataclass(frozen=True)
class _StepBias(Initializer):
    """The inverse of softplus of a log-uniform step."""

    low: float
    high: float
    floor: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Draw samples."""
        drawn = jax.random.uniform(key, shape, jnp.float32, math.log(self.low), math.log(self.high))
        step = jnp.maximum(jnp.exp(drawn), self.floor)
        return step + jnp.log(-jnp.expm1(-step))


@dataclass(frozen=True)
class LogUniform(Initializer):
    """The logarithm of a number that is uniform between `low` and `high`."""

    low: float
    high: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Draw samples."""
        return jnp.log(jax.random.uniform(key, shape, jnp.float32, self.low, self.high))


@dataclass(frozen=True)
class LogCount(Initializer):
    """The logarithms of 1, 2, 3, ... along the last axis: the decay rates of S4D-Real."""

    def __call__(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Return the logarithms. The key is not used."""
        return jnp.broadcast_to(jnp.log(jnp.arange(1, shape[-1] + 1, dtype=jnp.float32)), shape)
