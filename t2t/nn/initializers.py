"""How parameters begin: what T5, GPT and BERT do.

An initializer is a frozen dataclass, `(key, shape) -> float32 array`, so that layers that hold one compare and hash by value.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp


class Initializer(abc.ABC):
    """Makes the first value of a parameter.

    The entries are independent and do not depend on the shape, so that layers are drawn together as they would be one by one.
    """

    @abc.abstractmethod
    def __call__(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Return a float32 array of `shape`."""


@dataclass(frozen=True)
class Constant(Initializer):
    """Every entry is `value`."""

    value: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Return the constant; the key is not used."""
        return jnp.full(shape, self.value, jnp.float32)


@dataclass(frozen=True)
class Normal(Initializer):
    """Gaussian with standard deviation `std`."""

    std: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Draw from the Gaussian."""
        return self.std * jax.random.normal(key, shape, jnp.float32)


_TRUNCATED_STD = 0.87962566103423978
"""Standard deviation of a unit Gaussian cut at two deviations."""


@dataclass(frozen=True)
class TruncatedNormal(Initializer):
    """Gaussian cut at two standard deviations.

    exact: whether `std` is that of the values drawn (variance scaling, as T5) or that of the Gaussian before the cut, a
           little wider than the values drawn (`tf.truncated_normal_initializer`, as BERT).
    """

    std: float
    exact: bool = True

    def __call__(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Draw from the cut Gaussian."""
        std = self.std / _TRUNCATED_STD if self.exact else self.std
        return std * jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32)


ZEROS = Constant(0.0)
ONES = Constant(1.0)


def fan_in(inputs: int) -> TruncatedNormal:
    """Variance 1 / inputs, so that a product keeps the variance of what it is given."""
    return TruncatedNormal(1.0 / math.sqrt(inputs))
