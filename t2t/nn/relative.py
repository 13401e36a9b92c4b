"""Relative positions of T5: a learned bias on attention logits for each head and bucket of distances (Raffel et al. 2020, section 2.1)."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from t2t.nn.initializers import Initializer
from t2t.nn.parameters import parameter


def thresholds(buckets: int, max_distance: int) -> tuple[int, ...]:
    """Return the smallest distance of each bucket except the first, for distances of one sign.

    Half of the buckets hold one distance each. The others grow by equal factors up to `max_distance`. The computation uses integers: with the
    formula's float32 logarithm, the bucket of a distance on an edge would depend on the machine.
    """
    exact = buckets // 2
    wide = buckets - exact
    edges = list(range(1, exact + 1))
    distance = exact
    for step in range(1, wide):
        # distance / exact >= (max_distance / exact) ** (step / wide), both sides to the power of `wide`
        while distance**wide < exact ** (wide - step) * max_distance**step:
            distance += 1
        edges.append(distance)
    return tuple(edges)


def bucket(distance: Int[Array, "*S"], *, buckets: int, max_distance: int, bidirectional: bool) -> Int[Array, "*S"]:
    """Return the bucket of each `distance`, the key's index minus the query's index.

    If `bidirectional`, the upper half of the buckets is for keys after the query. Otherwise keys after the query count as distance 0.
    """
    if bidirectional:
        buckets //= 2
        first = jnp.where(distance > 0, buckets, 0)
        distance = jnp.abs(distance)
    else:
        first = jnp.zeros_like(distance)
        distance = jnp.maximum(-distance, 0)
    edges = jnp.asarray(thresholds(buckets, max_distance), distance.dtype)
    return first + jnp.sum(distance[..., None] >= edges, axis=-1, dtype=distance.dtype)


class RelativeBias(nnx.Module):
    """The table of biases that all layers of a stack share. It computes blocks of rows, so that the whole bias need not be in memory."""

    def __init__(self, heads: int, *, buckets: int, max_distance: int, bidirectional: bool, init: Initializer) -> None:
        self.buckets = buckets
        self.max_distance = max_distance
        self.bidirectional = bidirectional
        self.table = parameter((buckets, heads), ("buckets", "heads"), init, decay=False)

    def _values(self, distance: Int[Array, "*S"]) -> Float[Array, "*S H"]:
        index = bucket(distance, buckets=self.buckets, max_distance=self.max_distance, bidirectional=self.bidirectional)
        return self.table[...][index]

    def block(self, start: Int[Array, ""] | int, rows: int, columns: int) -> Float[Array, "1 H rows columns"]:
        """Return the bias of queries `start`, ..., `start + rows - 1` on keys 0, ..., `columns - 1`.

        There are only rows + columns different distances. Their values are arranged in diagonals by repeating, cutting and reshaping one vector. The gradient
        of this is a sum; the gradient of a gather would be a slow scatter.
        """
        period = rows + columns
        place = jnp.arange(period)
        # Distance to the query at `start`. The second half of a period has the negative distances, which later rows use.
        distance = jnp.where(place < columns, place, place - period) - start
        values = self._values(distance).T
        heads = values.shape[0]
        tiled = jnp.broadcast_to(values[:, None], (heads, rows, period)).reshape(heads, rows * period)
        folded = tiled[:, : rows * (period - 1)].reshape(heads, rows, period - 1)
        return folded[None, :, :, :columns]

    def at(self, index: Int[Array, "B"], keys: Int[Array, "#B k"]) -> Float[Array, "B H 1 k"]:
        """Return the bias of one query per row, at `index`, on keys at the given positions."""
        values = self._values(keys - index[:, None])
        return jnp.moveaxis(values, -1, 1)[:, :, None]
