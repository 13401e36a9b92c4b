"""Decoding states of mixers, such as a key-value cache or the state of a recurrence."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int

Own = TypeVar("Own", bound="State")


class State:
    """State of one layer after the tokens so far. A subclass is a pytree of arrays with the rows as first axis (`flax.struct.dataclass`).

    The same methods work on the states of several layers that are stacked over depth: `axis` is the axis of the rows, 0 for one layer and 1 for a stack.

    The default methods are for states of a fixed size, such as that of a recurrence.
    """

    def take(self: Own, rows: Int[Array, "N"], axis: int = 0) -> Own:
        """Return the state of the given rows. Rows may repeat."""
        return taken(self, rows, axis)

    def fork(self: Own, count: int, prompt: int, axis: int = 0) -> Own:
        """Return the state with each row replaced by `count` adjacent hypotheses, without the part that `shared` returns.

        prompt: number of positions of the prompt that the hypotheses share.
        """
        return jax.tree.map(lambda x: jnp.repeat(x, count, axis=axis), self)

    def shared(self, prompt: int, axis: int = 0) -> Any:
        """Return the part that all hypotheses on one prompt read and none changes: a pytree with a row for each prompt, or None."""
        return None

    def grow(self: Own, more: int, axis: int = 0) -> Own:
        """Return the state with room for `more` additional positions at the end."""
        return self

    def write(self: Own, entry: Any, index: Int[Array, "B"], axis: int = 0) -> Own:
        """Return the state with the result of `Mixer.step_entry` written at each row's position `index`, for one layer or for all layers of a stack at once.

        By default the entry is the whole new state.
        """
        return entry


@struct.dataclass
class LayerState(State):
    """State of a layer whose feed-forward layer has a state too. An entry of `write` is a `LayerState` of both entries."""

    mixer: Any
    feed_forward: Any

    def fork(self, count: int, prompt: int, axis: int = 0) -> LayerState:
        """Fork both states."""
        return LayerState(*(state.fork(count, prompt, axis) for state in (self.mixer, self.feed_forward)))

    def shared(self, prompt: int, axis: int = 0) -> Any:
        """Return what the hypotheses share of the mixer's state."""
        return self.mixer.shared(prompt, axis)

    def grow(self, more: int, axis: int = 0) -> LayerState:
        """Grow both states."""
        return LayerState(*(state.grow(more, axis) for state in (self.mixer, self.feed_forward)))

    def write(self, entry: Any, index: Int[Array, "B"], axis: int = 0) -> LayerState:
        """Write both entries."""
        return LayerState(
            self.mixer.write(entry.mixer, index, axis), self.feed_forward.write(entry.feed_forward, index, axis)
        )


def taken(tree: Any, rows: Int[Array, "N"], axis: int) -> Any:
    """Return the given rows of all arrays of a pytree."""
    return jax.tree.map(lambda x: jnp.take(x, rows, axis=axis, mode="clip"), tree)
