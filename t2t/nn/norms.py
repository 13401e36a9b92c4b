"""Normalization over the last axis, always computed in float32."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from t2t.nn.initializers import ONES, ZEROS
from t2t.nn.parameters import parameter

NormKind = Literal["rms", "rms_plus_one", "layer", "layer_unbiased"]


class RMSNorm(nnx.Module):
    """Root-mean-square norm (Zhang & Sennrich 2019) with a scale, without mean and bias. T5 uses it.

    plus_one: the output is multiplied by 1 + scale, and the initial scale is 0 (Gemma).
    groups:   number of parts of equal size that are normalized separately (Mamba-2).
    """

    def __init__(
        self, size: int, epsilon: float, axis: str = "embed", *, plus_one: bool = False, groups: int = 1
    ) -> None:
        self.epsilon, self.plus_one, self.groups = epsilon, plus_one, groups
        self.scale = parameter((size,), (axis,), ZEROS if plus_one else ONES, decay=False)

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """Return the normalized input in the type of the input."""
        if _one_row(x):
            return self(x[0])[None]
        wide = x.astype(jnp.float32)
        scale = 1.0 + self.scale[...] if self.plus_one else self.scale[...]
        if self.groups > 1:
            parts = wide.reshape(*x.shape[:-1], self.groups, -1)
            return ((parts * self._factor(parts)).reshape(x.shape) * scale).astype(x.dtype)
        return (wide * self._factor(wide) * scale).astype(x.dtype)

    def _factor(self, wide: Float[Array, "*B D"]) -> Float[Array, "*B 1"]:
        mean = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        return jax.lax.rsqrt(mean + self.epsilon)


class LayerNorm(nnx.Module):
    """Layer norm (Ba et al. 2016) with a scale, and with a bias unless `biased` is False. GPT and BERT use a bias, ModernBERT does not."""

    def __init__(self, size: int, epsilon: float, axis: str = "embed", *, biased: bool = True) -> None:
        self.epsilon = epsilon
        self.scale = parameter((size,), (axis,), ONES, decay=False)
        self.bias = parameter((size,), (axis,), ZEROS, decay=False) if biased else None

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """Return the normalized input in the type of the input."""
        if _one_row(x):
            return self(x[0])[None]
        wide = x.astype(jnp.float32)
        centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        normal = centred * jax.lax.rsqrt(variance + self.epsilon)
        scaled = normal * self.scale[...]
        return (scaled if self.bias is None else scaled + self.bias[...]).astype(x.dtype)


def _one_row(x: Float[Array, "*B D"]) -> bool:
    """Return whether x has a first axis of size 1 that is not needed. With it, XLA's sums for the gradient of the scale take up to ten times as long on a CPU."""
    return x.ndim > 2 and x.shape[0] == 1


def norm(kind: NormKind, size: int, epsilon: float, axis: str = "embed") -> RMSNorm | LayerNorm:
    """Return a norm of the given kind. axis: logical axis of its parameters."""
    if kind in ("layer", "layer_unbiased"):
        return LayerNorm(size, epsilon, axis, biased=kind == "layer")
    return RMSNorm(size, epsilon, axis, plus_one=kind == "rms_plus_one")
