"""Vectors of texts: pooling of an encoder's outputs."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from t2t import types

Pooling = Literal["mean", "first", "max", "last", "weighted_mean", "mean_sqrt"]
"""How the outputs at the n tokens of a text become one vector: their mean, the output at the first token, the largest value of each dimension, the output at the
last token, their mean with weights 1, ..., n (SGPT, Muennighoff 2022), or their sum divided by the square root of n."""


def pool(
    hidden: Float[Array, "B L D"], segments: Int[types.Array, "B L"], pooling: Pooling, *, slots: int = 1
) -> Float[Array, "B S D"]:
    """Return a float32 vector for each of the segments 1 to `slots` of each row. A segment without tokens has a vector of zeros.

    segments: number of the text of each token, from 1; 0 is padding. The tokens of a text are adjacent.
    """
    hidden = hidden.astype(jnp.float32)
    member = jnp.asarray(segments)[:, None, :] == jnp.arange(1, slots + 1)[None, :, None]
    used = jnp.any(member, axis=-1, keepdims=True)
    if pooling in ("first", "last"):
        first = jnp.argmax(member, axis=-1)
        place = first if pooling == "first" else first + jnp.maximum(jnp.sum(member, axis=-1) - 1, 0)
        return jnp.where(used, jnp.take_along_axis(hidden, place[..., None], axis=1), 0.0)
    if pooling == "max":  # one text at a time: an array [B S L D] would be large
        largest = [jnp.max(jnp.where(member[:, i, :, None], hidden, -jnp.inf), axis=1) for i in range(slots)]
        return jnp.where(used, jnp.stack(largest, axis=1), 0.0)
    weights = member.astype(jnp.float32)
    if pooling == "weighted_mean":
        weights = weights * jnp.cumsum(weights, axis=-1)
    # Accelerators would round the factors of a float32 product.
    total = jnp.einsum("bsl,bld->bsd", weights, hidden, precision=jax.lax.Precision.HIGHEST)
    count = jnp.maximum(jnp.sum(weights, axis=-1, keepdims=True), 1.0)
    return total / (jnp.sqrt(count) if pooling == "mean_sqrt" else count)


def unit(vectors: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Return each vector divided by its Euclidean norm. A vector of zeros stays zero, with a gradient of zero."""
    squared = jnp.sum(jnp.square(vectors), axis=-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))
