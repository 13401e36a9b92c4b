"""Sums over the inputs of linear layers, for the calibration of quantized kernels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from t2t.types import Array as AnyArray

Sums = dict[str, Float[Array, "I I"]]
"""For each linear layer, the float32 sum of x x^T over its inputs x, by the name of the layer."""


class LinearInputs:
    """Adds up x x^T over the inputs x of linear layers. Padding does not count.

    names: the layers, by `id`, and their names. Inputs of other layers do not count.
    segments: segments of the tokens; 0 is padding.
    memory_segments: segments of the encoder's tokens, which are the inputs of some layers of a decoder.
    """

    def __init__(
        self,
        names: Mapping[int, str],
        segments: Int[AnyArray, "B L"],
        memory_segments: Int[AnyArray, "B k"] | None = None,
    ) -> None:
        self.sums: Sums = {}
        self._names, self._segments, self._memory_segments = names, segments, memory_segments
        self._made: list[tuple[jax.Array, jax.Array]] = []

    def add(self, linear: object, x: Float[Array, "*B I"]) -> None:
        """Add the inputs of one layer."""
        name = self._names.get(id(linear))
        if name is None:
            return
        gram = self._gram(x)
        self.sums[name] = self.sums[name] + gram if name in self.sums else gram

    def _gram(self, x: Float[Array, "*B I"]) -> Float[Array, "I I"]:
        """Return the sum for an input. Layers with the same input, such as queries, keys and values, share it."""
        for other, gram in self._made:
            if other is x:
                return gram
        segments = self._memory_segments if _memory.get() else self._segments
        values = x.astype(jnp.float32)
        if segments is not None and x.shape[:2] == segments.shape:
            real = jnp.asarray(segments) != 0
            values = jnp.where(real.reshape(*real.shape, *[1] * (x.ndim - 2)), values, 0.0)
        rows = values.reshape(-1, x.shape[-1])
        gram = jnp.matmul(rows.T, rows, precision=jax.lax.Precision.HIGHEST)
        self._made.append((x, gram))
        return gram


_recorder: ContextVar[LinearInputs | None] = ContextVar("linear inputs", default=None)
_memory: ContextVar[bool] = ContextVar("inputs are the encoder's output", default=False)


@contextlib.contextmanager
def recorded(inputs: LinearInputs) -> Iterator[LinearInputs]:
    """Add the inputs of the layers that are applied inside, in the same trace, and yield `inputs`."""
    token = _recorder.set(inputs)
    try:
        yield inputs
    finally:
        _recorder.reset(token)


def recorder() -> LinearInputs | None:
    """Return the argument of the innermost `recorded`, None outside of it."""
    return _recorder.get()


@contextlib.contextmanager
def of_memory() -> Iterator[None]:
    """Mark the linear layers that are applied inside as those that read the encoder's output."""
    token = _memory.set(True)
    try:
        yield
    finally:
        _memory.reset(token)
