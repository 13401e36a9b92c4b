"""What a stack of layers stores while it decodes.

The states of the layers, and the memories: the parts of the prompt and of the encoder's output that no step changes. Both have one of three forms:

- a tuple with one entry for each layer, in order;
- one entry stacked over depth, if all layers are the same;
- `Patterned`, if layers follow a pattern, or others come first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import struct


@struct.dataclass
class Patterned:
    """Entries of a stack with a pattern of layers.

    repeats: for each position of the pattern, the entries of its layers, stacked over the repeats.
    tail:    the entries of the layers of the partial last repeat.
    first:   the entries of the layers before the pattern.
    """

    repeats: tuple[Any, ...]
    tail: tuple[Any, ...]
    first: tuple[Any, ...] = ()


def each(change: Callable[..., Any], kept: Any, *more: Any) -> Any:
    """Apply `change(axis, part, ...)` to every part of `kept` and return the results in the same form.

    axis: axis of the rows, 0 for one layer and 1 for stacked layers.
    more: values of the same form, whose parts are passed to `change` too.
    """
    if isinstance(kept, tuple):
        return tuple(change(0, *parts) for parts in zip(kept, *more, strict=True))
    if isinstance(kept, Patterned):
        repeats = zip(kept.repeats, *(one.repeats for one in more), strict=True)
        tail = zip(kept.tail, *(one.tail for one in more), strict=True)
        first = zip(kept.first, *(one.first for one in more), strict=True)
        return Patterned(
            tuple(change(1, *parts) for parts in repeats),
            tuple(change(0, *parts) for parts in tail),
            tuple(change(0, *parts) for parts in first),
        )
    return change(1, kept, *more)


def cut(stacked: Any, depth: int) -> tuple[Any, ...]:
    """Split a value that is stacked over `depth` layers into one value for each layer."""
    return tuple(jax.tree.map(lambda leaf, at=layer: leaf[at], stacked) for layer in range(depth))
