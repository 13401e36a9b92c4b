"""The key-value cache of attention."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from t2t.nn.state import State


@struct.dataclass
class KeyValues(State):
    """Keys and values of the tokens so far, with K heads, in the layout for products with one query. Stacked layers have a leading axis N."""

    key: Float[Array, "*N B K L D"]
    value: Float[Array, "*N B K L D"]

    def fork(self, count: int, prompt: int, axis: int = 0) -> KeyValues:
        """Return empty caches with `count` rows for each row, for the positions after the prompt."""

        def empty(x: Float[Array, "*N B K L D"]) -> Float[Array, "*N R K l D"]:
            *layers, batch, heads, length, size = x.shape
            return jnp.zeros((*layers, batch * count, heads, length - prompt, size), x.dtype)

        return jax.tree.map(empty, self)

    def shared(self, prompt: int, axis: int = 0) -> dict[str, Float[Array, "*N B K P D"]]:
        """Return the keys and values of the prompt."""
        return {"key": self.key[..., :prompt, :], "value": self.value[..., :prompt, :]}

    def grow(self, more: int, axis: int = 0) -> KeyValues:
        """Return the cache with room for `more` additional positions at the end."""
        return jax.tree.map(lambda x: jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, more), (0, 0)]), self)

    def write(self, entry: Any, index: Int[Array, "B"], axis: int = 0) -> KeyValues:
        """Return the cache with each row's entry, a `KeyValues` of one position, at its index. Only these entries are written."""
        rows = jnp.arange(index.shape[0])

        def of_layer(old: jax.Array, new: jax.Array) -> jax.Array:
            return old.at[rows, :, index].set(new[:, :, 0], indices_are_sorted=True, unique_indices=True)

        def of_stack(old: jax.Array, new: jax.Array) -> jax.Array:
            # The indexed axes come first: [B N K D], N layers.
            new = jnp.moveaxis(new[:, :, :, 0], 0, 1)
            return old.at[:, rows, :, index].set(new, indices_are_sorted=True, unique_indices=True)

        return jax.tree.map(of_stack if axis else of_layer, self, entry)
