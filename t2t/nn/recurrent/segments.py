"""Where the examples of packed rows begin and end. Recurrent mixers reset their state there."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from t2t.types import Array as AnyArray


def real(segments: Int[AnyArray, "B L"]) -> Bool[Array, "B L"]:
    """Return true for tokens, and false for padding."""
    return jnp.asarray(segments) > 0


def starts(segments: Int[AnyArray, "B L"]) -> Bool[Array, "B L"]:
    """Return true for the first token of each example."""
    segments = jnp.asarray(segments)
    before = jnp.pad(segments[:, :-1], ((0, 0), (1, 0)))
    return real(segments) & (segments != before)


def epochs(segments: Int[AnyArray, "B L"]) -> Int[Array, "B L"]:
    """Return how many examples have begun up to each position, itself included.

    Padding has the number of the example before it, so a state that padding does not change is that of this example.
    """
    return jnp.cumsum(starts(segments), axis=1, dtype=jnp.int32)


def last(segments: Int[AnyArray, "B L"]) -> Int[Array, "B"]:
    """Return the position of the last token of each row; -1 for rows of padding."""
    places = jnp.arange(segments.shape[1], dtype=jnp.int32)
    return jnp.max(jnp.where(real(segments), places, -1), axis=1)
