"""Initializers of parameters, as in T5, GPT and BERT.

An initializer is a frozen dataclass that maps (key, shape) to a float32 array. Layers that hold one compare and hash by value.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp


class Initializer(abc.ABC):
    """Computes the initial value of a parameter.

    Entries are independent of each other and of the shape. So stacked layers can be drawn together with the same distribution.
    """

    @abc.abstractmethod
    def __call__(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Return a float32 array of `shape`."""


@dataclass(frozen=True)
class Constant(Initializer):
    """Every entry is `value`."""

    value: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Return the constant. The key is not used."""
        return jnp.full(shape, self.value, jnp.float32)


@dataclass(frozen=True)
class Normal(Initializer):
    """Gaussian with standard deviation `std`."""

    std: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Draw samples."""
        return self.std * jax.random.normal(key, shape, jnp.float32)


@dataclass(frozen=True)
class Uniform(Initializer):
    """Uniform between -bound and bound."""

    bound: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Draw samples."""
        return jax.random.uniform(key, shape, jnp.float32, -self.bound, self.bound)


_TRUNCATED_STD = 0.87962566103423978
"""Standard deviation of a unit Gaussian that is truncated at two standard deviations."""


@dataclass(frozen=True)
class TruncatedNormal(Initializer):
    """Gaussian truncated at two standard deviations.

    exact: if true, `std` is the standard deviation of the truncated values (variance scaling, as in T5). If false, it is that of the Gaussian before
           the truncation, which is a little larger (`tf.truncated_normal_initializer`, as in BERT).
    """

    std: float
    exact: bool = True

    def __call__(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Draw samples."""
        std = self.std / _TRUNCATED_STD if self.exact else self.std
        return std * jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32)


ZEROS = Constant(0.0)
ONES = Constant(1.0)


def fan_in(inputs: int) -> TruncatedNormal:
    """Return an initializer with variance 1 / inputs, which keeps the variance of the inputs in a product."""
    return TruncatedNormal(1.0 / math.sqrt(inputs))
