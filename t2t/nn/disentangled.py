"""Relative positions of disentangled attention (He et al. 2021, "DeBERTa", section 3.1, https://arxiv.org/abs/2006.03654).

A table has a vector for each relative position. Each layer projects these vectors to keys and queries. The logit of a query and a key is the sum of three
products: query and key of the contents, query of the content and key of the relative position, key of the content and query of the relative position.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Annotated

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from t2t.errors import UserError
from t2t.limits import Configuration, Length, Range
from t2t.nn.initializers import Initializer
from t2t.nn.norms import norm
from t2t.nn.parameters import parameter

Buckets = Annotated[int, Range(4, 4096)]


@dataclass(frozen=True, kw_only=True)
class Disentangled(Configuration):
    """Relative positions with vectors of their own (DeBERTa).

    Args:
        content_to_position: add to a logit the product of the token's query and the key of the relative position.
        position_to_content: add to a logit the product of the other token's key and the query of the relative position.
        buckets: number of buckets of distances in each direction. Half of them hold one distance each; the others grow by equal factors up to `max_distance`.
            None means that each distance has its own.
        max_distance: distance in tokens from which all share the last vector of their direction.
        shared_projections: project the vectors of relative positions with the kernels of the contents' queries and keys. Otherwise with kernels of their own.
        norm: normalize the vectors of relative positions (layer norm) before they are projected.
    """

    content_to_position: bool = True
    position_to_content: bool = True
    buckets: Buckets | None = 256
    max_distance: Length = 512
    shared_projections: bool = True
    norm: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.terms:
            raise UserError(
                "model.disentangled.content_to_position and model.disentangled.position_to_content are False; disentangled positions need one of them"
                ' (or use --model.encoder.positions "none"). Nearest: True.'
            )
        if self.buckets is not None and self.max_distance <= self.buckets // 2 + 1:
            raise UserError(
                f"model.disentangled.max_distance is {self.max_distance}; half of model.disentangled.buckets = {self.buckets} must be less than it by 2 or more."
                f" Nearest: {self.buckets // 2 + 2}."
            )

    @property
    def terms(self) -> int:
        """Number of products that are added to the product of the contents. Logits are divided by sqrt((1 + terms) * head_dim)."""
        return self.content_to_position + self.position_to_content

    @property
    def span(self) -> int:
        """Number of vectors in each direction."""
        return self.max_distance if self.buckets is None else self.buckets

    def index(self, distance: Int[Array, "*S"]) -> Int[Array, "*S"]:
        """Return the row of the table for each `distance`, the query's index minus the key's index."""
        length = jnp.abs(distance)
        if self.buckets is not None:
            edges = jnp.asarray(_edges(self.buckets, self.max_distance), distance.dtype)
            length = jnp.minimum(length, self.buckets // 2) + jnp.sum(
                length[..., None] >= edges, axis=-1, dtype=distance.dtype
            )
        return jnp.clip(jnp.sign(distance) * length + self.span, 0, 2 * self.span - 1)


@functools.cache
def _edges(buckets: int, max_distance: int) -> tuple[int, ...]:
    """Return the smallest distance of each bucket after the first half, which hold one distance each.

    With m = buckets // 2, the bucket of a distance d > m is m + ceil(log(d / m) / log((max_distance - 1) / m) * (m - 1)). The computation uses integers: with
    logarithms, the bucket of a distance on an edge would depend on the machine.
    """
    middle, last = buckets // 2, max_distance - 1
    edges, distance = [], middle + 1
    for step in range(buckets - middle):
        # (distance / middle) ** (middle - 1) > (last / middle) ** step, without fractions
        while distance ** (middle - 1) * middle**step <= last**step * middle ** (middle - 1):
            distance += 1
        edges.append(distance)
    return tuple(edges)


class RelativeVectors(nnx.Module):
    """The table of vectors of relative positions that all layers of a stack share.

    rows:    number of vectors, twice `Disentangled.span`: first those of keys after the query, from far to near.
    width:   width of the residual stream.
    epsilon: epsilon of the layer norm of the vectors, or None for no norm.
    """

    def __init__(self, rows: int, width: int, *, epsilon: float | None, init: Initializer) -> None:
        self.table = parameter((rows, width), ("buckets", "embed"), init, decay=False)
        self.norm = None if epsilon is None else norm("layer", width, epsilon)

    def __call__(self) -> Float[Array, "N D"]:
        """Return the float32 vectors, normalized if there is a norm."""
        vectors = self.table[...]
        return vectors if self.norm is None else self.norm(vectors)


def position_bias(
    disentangled: Disentangled,
    start: Int[Array, ""] | int,
    queries: Float[Array, "B q H D"],
    keys: Float[Array, "B k H D"],
    position_keys: Float[Array, "N H D"] | None,
    position_queries: Float[Array, "N H D"] | None,
) -> Float[Array, "B H q k"]:
    """Return what relative positions add to the logits of queries `start`, `start + 1`, ... on all keys, in float32.

    queries, position_queries: already multiplied by the factor on logits.
    position_keys, position_queries: projected vectors of relative positions, None without that product.

    A row of a product with the vectors of all different distances, in order, holds its part of the bias shifted by the row's index. `_diagonals` shifts it
    by reshaping: a gather of [B H q k] numbers would be slower, and its gradient a scatter.
    """
    rows, columns = queries.shape[1], keys.shape[1]
    bias = jnp.zeros((), jnp.float32)
    if position_keys is not None:
        # Row r, place p: the key p - (rows - 1) after the query at start + r.
        distance = start + (rows - 1) - jnp.arange(rows + columns)
        by_distance = jnp.take(position_keys, disentangled.index(distance), axis=0)
        products = jnp.einsum("bqhd,phd->bhqp", queries, by_distance, preferred_element_type=jnp.float32)
        bias = bias + _diagonals(products, columns)
    if position_queries is not None:
        # Keys by blocks of as many as there are queries: a block has only 2 * rows distances to the queries.
        blocks = -(-columns // rows)
        padded = jnp.pad(keys, ((0, 0), (0, blocks * rows - columns), (0, 0), (0, 0)))
        padded = padded.reshape(padded.shape[0], blocks, rows, *padded.shape[2:])
        distance = start + jnp.arange(2 * rows) - (rows - 1) - rows * jnp.arange(blocks)[:, None]
        by_distance = jnp.take(position_queries, disentangled.index(distance), axis=0)
        products = jnp.einsum("bnkhd,nphd->bhnkp", padded, by_distance, preferred_element_type=jnp.float32)
        by_key = _diagonals(products, rows)
        by_key = by_key.reshape(*by_key.shape[:2], blocks * rows, rows)[:, :, :columns]
        bias = bias + jnp.swapaxes(by_key, -1, -2)
    return bias


def _diagonals(products: Float[Array, "*B r p"], columns: int) -> Float[Array, "*B r columns"]:
    """Return for row i the places i' = rows - 1 - i, i' + 1, ..., i' + columns - 1 of the row. There are rows + columns places."""
    rows, period = products.shape[-2:]
    flat = products.reshape(*products.shape[:-2], rows * period)[..., rows - 1 : rows * period - 1]
    return flat.reshape(*products.shape[:-2], rows, period - 1)[..., :columns]
