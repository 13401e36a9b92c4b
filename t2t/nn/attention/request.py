"""Arguments of attention backends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from t2t.nn.masks import Mask

Bias = Callable[[int | jax.Array, Float[Array, "B rows H D"]], Float[Array, "#B H rows k"]]
"""A function (index of the first query, scaled queries) that returns the bias of these queries on all keys."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """The arguments of `attention`, with `q` already scaled. `dropout` has no effect without a key."""

    q: Float[Array, "B q H D"]
    k: Float[Array, "B k K D"]
    v: Float[Array, "B k K D"]
    mask: Mask
    bias: Float[Array, "#B #H q k"] | Bias | None
    dropout: float
    key: jax.Array | None
    block: int
    softcap: float | None = None
    sinks: Float[Array, "H"] | None = None

    def whole_bias(self) -> Float[Array, "#B #H q k"] | None:
        """Return the bias of all rows."""
        return self.bias(0, self.q) if callable(self.bias) else self.bias

    def repeated(self) -> tuple[Float[Array, "B k H D"], Float[Array, "B k H D"]]:
        """Return keys and values repeated for each query head."""
        times = self.q.shape[2] // self.k.shape[2]
        if times == 1:
            return self.k, self.v
        return jnp.repeat(self.k, times, axis=2), jnp.repeat(self.v, times, axis=2)


def blank(out: Float[Array, "B q H D"], sees: Bool[Array, "B q"]) -> Float[Array, "B q H D"]:
    """Set the output of queries that see no key to 0. Their softmax would be uniform over all keys."""
    return jnp.where(sees[:, :, None, None], out, jnp.zeros((), out.dtype))
