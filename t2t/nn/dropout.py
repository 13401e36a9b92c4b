"""Dropout (Srivastava et al. 2014), and the handing out of its keys."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Keys:
    """Hands out one key after another from one, or None for ever where there is none.

    The order of the calls is the program's own, so a traced function draws the same keys each time.
    """

    def __init__(self, key: jax.Array | None) -> None:
        self._key = key
        self._count = 0

    def next(self) -> jax.Array | None:
        """Return a key never handed out before, or None."""
        if self._key is None:
            return None
        self._count += 1
        return jax.random.fold_in(self._key, self._count)


def dropout(x: Float[Array, "*S"], rate: float, key: jax.Array | None) -> Float[Array, "*S"]:
    """Set entries to zero with probability `rate` and scale the others by 1 / (1 - rate); nothing without a key."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros((), x.dtype))
