"""The key-value caches of attention: of all tokens, and of those in a sliding window."""

from __future__ import annotations

import dataclasses
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

    def place(self, index: Int[Array, "B"]) -> Int[Array, "B"]:
        """Return where in the cache the position `index` of each row is."""
        return index

    def grow(self, more: int, axis: int = 0) -> KeyValues:
        """Return the cache with room for `more` additional positions at the end."""
        return jax.tree.map(lambda x: _padded(x, more), self)

    def write(self, entry: Any, index: Int[Array, "B"], axis: int = 0) -> KeyValues:
        """Return the cache with each row's entry, a `KeyValues` of one position, at its index. Only these entries are written."""
        rows, place = jnp.arange(index.shape[0]), self.place(index)

        def of_layer(old: jax.Array, new: jax.Array) -> jax.Array:
            return old.at[rows, :, place].set(new[:, :, 0], indices_are_sorted=True, unique_indices=True)

        def of_stack(old: jax.Array, new: jax.Array) -> jax.Array:
            # The indexed axes come first: [B N K D], N layers.
            new = jnp.moveaxis(new[:, :, :, 0], 0, 1)
            return old.at[:, rows, :, place].set(new, indices_are_sorted=True, unique_indices=True)

        put = of_stack if axis else of_layer
        return dataclasses.replace(self, key=put(self.key, entry.key), value=put(self.value, entry.value))


@struct.dataclass
class WindowKeyValues(KeyValues):
    """Keys and values of the last tokens, as many as a sliding window has: a ring buffer. Position i is in slot i modulo the number of slots.

    A step overwrites the position that leaves the window, so memory does not grow beyond the window, whatever the length.

    window: size of the window in tokens.
    length: number of positions there is room for; up to the window, each has its own slot.
    """

    window: int = struct.field(pytree_node=False, default=1)
    length: int = struct.field(pytree_node=False, default=1)

    @classmethod
    def of_prompt(
        cls,
        keys: Float[Array, "B P K D"],
        values: Float[Array, "B P K D"],
        counts: Int[Array, "B"],
        *,
        window: int,
        length: int,
    ) -> WindowKeyValues:
        """Return the cache after prompts. counts: number of tokens of each row's prompt; padding follows them."""
        positions = held(counts - 1, slots(window, length))[:, :, None, None]

        def last(x: Float[Array, "B P K D"]) -> Float[Array, "B K L D"]:
            return jnp.swapaxes(jnp.take_along_axis(x, jnp.maximum(positions, 0), axis=1, mode="clip"), 1, 2)

        return cls(key=last(keys), value=last(values), window=window, length=length)

    def place(self, index: Int[Array, "B"]) -> Int[Array, "B"]:
        """Return the slot of the position `index` of each row."""
        return index % self.key.shape[-2]

    def fork(self, count: int, prompt: int, axis: int = 0) -> WindowKeyValues:
        """Return empty caches with `count` rows for each row, for the positions after the prompt."""
        length = self.length - prompt

        def empty(x: Float[Array, "*N B K L D"]) -> Float[Array, "*N R K l D"]:
            *layers, batch, heads, _, size = x.shape
            return jnp.zeros((*layers, batch * count, heads, slots(self.window, length), size), x.dtype)

        return dataclasses.replace(jax.tree.map(empty, self), length=length)

    def shared(self, prompt: int, axis: int = 0) -> dict[str, Float[Array, "*N B K P D"]]:
        """Return the keys and values of the last tokens of the prompt, at most as many as the window has."""
        return super().shared(min(prompt, self.key.shape[-2]), axis)

    def grow(self, more: int, axis: int = 0) -> WindowKeyValues:
        """Return the cache with room for `more` additional positions: more slots, unless there are as many as the window has."""
        longer = dataclasses.replace(self, length=self.length + more)
        added = slots(self.window, longer.length) - self.key.shape[-2]
        return jax.tree.map(lambda x: _padded(x, added), longer)


def _padded(x: Float[Array, "*N B K L D"], more: int) -> Float[Array, "*N B K M D"]:
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, more), (0, 0)])


def slots(window: int, length: int) -> int:
    """Return the number of slots of a ring buffer for `length` positions; the window if the length is symbolic."""
    return min(window, length) if isinstance(length, int) else window


def held(last: Int[Array, "B"], count: int) -> Int[Array, "B count"]:
    """Return the position in each slot of a ring buffer once position `last` is written; negative for slots that are still empty."""
    last = last[:, None]
    return last - (last - jnp.arange(count)[None]) % count
