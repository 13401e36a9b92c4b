"""The token before each token of its example: RWKV's token shift (Peng et al. 2023, section 3.1.1, https://arxiv.org/abs/2305.13048)."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from t2t.nn.recurrent.segments import last, starts
from t2t.types import Array as AnyArray


def shifted(x: Float[Array, "B L D"], segments: Int[AnyArray, "B L"]) -> Float[Array, "B L D"]:
    """Return the vector of the token before each token, zeros for the first token of an example."""
    before = jnp.pad(x[:, :-1], ((0, 0), (1, 0), (0, 0)))
    return jnp.where(starts(segments)[..., None], 0, before)


def latest(x: Float[Array, "B L D"], segments: Int[AnyArray, "B L"]) -> Float[Array, "B D"]:
    """Return the vector of the last token of each row, which may be padded at either end; zeros for a row of padding."""
    place = last(segments)[:, None]
    found = jnp.take_along_axis(x, jnp.maximum(place, 0)[..., None], axis=1)[:, 0]
    return jnp.where(place >= 0, found, 0)


def mixed(x: Float[Array, "*B D"], before: Float[Array, "*B D"], share: Float[Array, "D"]) -> Float[Array, "*B D"]:
    """Return `share * x + (1 - share) * before`, for each channel."""
    return before + (x - before) * share.astype(x.dtype)
