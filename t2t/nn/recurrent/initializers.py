"""Initial values of RWKV's vectors, which differ by channel and by layer: those of RWKV-4 (Peng et al. 2023, appendix E) and of RWKV-7 (released code)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from t2t.nn.initializers import Initializer


def _places(shape: tuple[int, ...], skipped: int = 0) -> tuple[jax.Array, jax.Array, int]:
    """Return the numbers of the channels [D] and of the layers [layers 1], and the number of all layers.

    skipped: number of layers before those of the parameter. A parameter that is not stacked belongs to a single layer.
    """
    layers = skipped + (shape[0] if len(shape) > 1 else 1)
    return jnp.arange(shape[-1], dtype=jnp.float32), jnp.arange(skipped, layers, dtype=jnp.float32)[:, None], layers


@dataclass(frozen=True)
class MixShare(Initializer):
    """Share of the current token in a token shift: from 0 in the first channel to almost 1 in the last.

    power: factor on the exponent.
    later: what the last layer has more than the first.
    skipped: number of layers before those of the parameter.
    """

    power: float = 1.0
    later: float = 0.0
    skipped: int = 0

    def __call__(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Return the values. The key is not used."""
        channel, layer, layers = _places(shape, self.skipped)
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


@dataclass(frozen=True)
class Spread(Initializer):
    """Values that rise in a line over all channels, and in a curve from the first channel of each head to its last (released code of RWKV-7).

    middle: value in the middle.
    slope:  difference of the last channel and the first.
    zigzag: height of the curve at the last channel of a head; minus this at the first.
    head_dim: width of a head.
    """

    middle: float
    slope: float = 0.0
    zigzag: float = 0.0
    head_dim: int = 1

    def __call__(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Return the values. The key is not used."""
        channel, _, _ = _places(shape)
        line = channel / max(shape[-1] - 1, 1) - 0.5
        return jnp.broadcast_to(self.middle + self.slope * line + self.zigzag * _curve(channel, self.head_dim), shape)


@dataclass(frozen=True)
class Decay(Initializer):
    """Offset of RWKV-7's decay (released code). skipped: number of layers before those of the parameter."""

    head_dim: int
    skipped: int = 0

    def __call__(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Return the values. The key is not used."""
        channel, layer, layers = _places(shape, self.skipped)
        power = 1 + (layer / max(layers - 1, 1)) ** 0.3
        line = -6 + 6 * (channel / max(shape[-1] - 1, 1)) ** power
        return (line + 0.5 + 2.5 * _curve(channel, self.head_dim)).reshape(shape)


def _curve(channel: jax.Array, head_dim: int) -> jax.Array:
    """Return a curve from -1 in the first channel of each head to 1 in the last."""
    half = max(head_dim - 1, 1) / 2
    place = (channel % head_dim) / half - 1
    return place * jnp.abs(place)
