"""Initial values of RWKV-4's vectors, which differ by channel and by layer (Peng et al. 2023, appendix E)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from t2t.nn.initializers import Initializer


def _places(shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array, int]:
    """Return the numbers of the channels [D] and of the layers [layers 1], and the number of layers. Parameters of a single layer count as the first of one."""
    layers = shape[0] if len(shape) > 1 else 1
    return jnp.arange(shape[-1], dtype=jnp.float32), jnp.arange(layers, dtype=jnp.float32)[:, None], layers


@dataclass(frozen=True)
class MixShare(Initializer):
    """Share of the current token in a token shift: from 0 in the first channel to almost 1 in the last.

    power: factor on the exponent.
    later: what the last layer has more than the first.
    """

    power: float = 1.0
    later: float = 0.0

    def __call__(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Return the values. The key is not used."""
        channel, layer, layers = _places(shape)
        share = (channel / shape[-1]) ** (self.power * (1 - layer / layers))
        return (share + self.later * layer / max(layers - 1, 1)).reshape(shape)


@dataclass(frozen=True)
class LogDecay(Initializer):
    """Logarithm of the decay: from -5 in the first channel, which forgets least, to 3 in the last."""

    def __call__(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Return the values. The key is not used."""
        channel, layer, layers = _places(shape)
        power = 0.7 + 1.3 * layer / max(layers - 1, 1)
        return (-5 + 8 * (channel / max(shape[-1] - 1, 1)) ** power).reshape(shape)


@dataclass(frozen=True)
class Bonus(Initializer):
    """Bonus of the current token: log(0.3), and -1/2, 0 and 1/2 in turn."""

    def __call__(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Return the values. The key is not used."""
        channel, _, _ = _places(shape)
        return jnp.broadcast_to(0.5 * ((channel + 1) % 3 - 1) + math.log(0.3), shape)
