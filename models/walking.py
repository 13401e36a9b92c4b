"""Apply the layers of a stack one by one, in place of its scan, so that the caller can change the parameters of each layer before the next one is applied."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from t2t.models.block import Block

if TYPE_CHECKING:
    from t2t.models.transformer import Stack
    from t2t.nn.mixers import Context

Walk = Callable[["Stack", jax.Array, "Context"], jax.Array]
"""Function (stack, x, context) that returns the output of the stack's layers, before the final norm."""

_walk: ContextVar[Walk | None] = ContextVar("walk", default=None)


class Step(NamedTuple):
    """Consecutive layers of a stack that have the same parameters: one layer, except in a stack with fewer groups than layers.

    block: the layer. Its parameters are stacked if `part` is not None.
    part:  number of its parameters in stacked ones.
    place: number of its context in `Stack.contexts`.
    times: number of layers.
    """

    block: Block
    part: int | None
    place: int
    times: int = 1


@contextlib.contextmanager
def walking(walk: Walk) -> Iterator[None]:
    """Replace the layers of each stack that is applied to whole rows inside with `walk`. Auxiliary terms of layers are left out."""
    token: Any = _walk.set(walk)
    try:
        yield
    finally:
        _walk.reset(token)


def walker() -> Walk | None:
    """Return the argument of the innermost `walking`, None outside of it."""
    return _walk.get()
