"""The outputs of the layers of a stack, for objectives that compare them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from jaxtyping import Array, Float

LayerOutputs = dict[str, Float[Array, "N B L D"]]
"""The outputs of all layers of a stack, before its final norm, by the side of the batch that it reads: "encoder" or "decoder"."""

_recorded: ContextVar[LayerOutputs | None] = ContextVar("layer outputs", default=None)


@contextlib.contextmanager
def recorded() -> Iterator[LayerOutputs]:
    """Yield a dict that gets the outputs of the layers of each stack that is applied to whole rows inside, in the same trace."""
    outputs: LayerOutputs = {}
    token = _recorded.set(outputs)
    try:
        yield outputs
    finally:
        _recorded.reset(token)


def recorder() -> LayerOutputs | None:
    """Return the dict of the innermost `recorded`, None outside of it."""
    return _recorded.get()
