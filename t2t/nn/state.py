"""What a mixer keeps while it decodes: a key-value cache, the state of a recurrence."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

Own = TypeVar("Own", bound="State")


class State:
    """What one layer keeps of the tokens so far. A subclass is a pytree of arrays with the rows first (`flax.struct.dataclass`).

    The same operations serve the states of several layers at once, stacked over depth: `axis` is the axis of the rows, 0 for one layer and 1 for a
    stack of them.

    The defaults are those of a state of one size, as a recurrence has it.
    """

    def take(self: Own, rows: Int[Array, "N"], axis: int = 0) -> Own:
        """Return the state of the given rows, which may repeat."""
        return taken(self, rows, axis)

    def fork(self: Own, count: int, prompt: int, axis: int = 0) -> Own:
        """Return the state of `count` hypotheses in place of each row, one after the other, without what `shared` returns.

        prompt: positions of the prompt that the hypotheses have in common.
        """
        return jax.tree.map(lambda x: jnp.repeat(x, count, axis=axis), self)

    def shared(self, prompt: int, axis: int = 0) -> Any:
        """Return what all hypotheses on one prompt read and none changes, a pytree with a row for each prompt; None for nothing."""
        return None

    def grow(self: Own, more: int, axis: int = 0) -> Own:
        """Return the state with room for `more` positions behind its own."""
        return self

    def write(self: Own, entry: Any, index: Int[Array, "B"], axis: int = 0) -> Own:
        """Return the state with what `Mixer.step_entry` returned for each row's position `index`: of one layer, or of all layers of a stack at once.

        By default an entry is the whole new state.
        """
        return entry


def taken(tree: Any, rows: Int[Array, "N"], axis: int) -> Any:
    """Return the given rows of all arrays of a pytree."""
    return jax.tree.map(lambda x: jnp.take(x, rows, axis=axis, mode="clip"), tree)
