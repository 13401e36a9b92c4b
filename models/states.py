"""What a stack keeps of its layers while it decodes: the states of all layers, and what of the prompt and of the encoder's output no step changes.

Three forms, each of states and of memories:

- a tuple with a layer's each, in order;
- one stacked over depth, where all layers are alike;
- `Patterned`, where layers follow a pattern.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import struct


@struct.dataclass
class Patterned:
    """repeats: for each place of the pattern, its layers' stacked over repeats. tail: of the layers of the partial last repeat."""

    repeats: tuple[Any, ...]
    tail: tuple[Any, ...]


def each(change: Callable[..., Any], kept: Any, *more: Any) -> Any:
    """Return `change(axis, part, ...)` of every part of what is kept, in its form. axis: of the rows, 0 for one layer, 1 for layers stacked.

    more: others of the same form, whose parts are passed on.
    """
    if isinstance(kept, tuple):
        return tuple(change(0, *parts) for parts in zip(kept, *more, strict=True))
    if isinstance(kept, Patterned):
        repeats = zip(kept.repeats, *(one.repeats for one in more), strict=True)
        tail = zip(kept.tail, *(one.tail for one in more), strict=True)
        return Patterned(tuple(change(1, *parts) for parts in repeats), tuple(change(0, *parts) for parts in tail))
    return change(1, kept, *more)


def cut(stacked: Any, depth: int) -> tuple[Any, ...]:
    """Return what is stacked over `depth` layers layer by layer."""
    return tuple(jax.tree.map(lambda leaf, at=layer: leaf[at], stacked) for layer in range(depth))
