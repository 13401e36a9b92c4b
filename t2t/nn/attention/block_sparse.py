"""Attention with a window or a sparsity pattern that computes only blocks of keys in which a query may see something.

A block of queries attends to the blocks of keys at certain distances, which are the same for all blocks of queries. So the cost is linear in the number of
tokens times the number of these blocks. The mask is applied inside the blocks.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from t2t.nn.attention.einsum import attend_with_bias
from t2t.nn.attention.request import Request
from t2t.nn.masks import Mask
from t2t.sharding import axis_size

SMALLEST = 16
"""Smallest number of queries in a block that is chosen here."""
OVERHEAD = 32
"""Cost of fetching a block of keys, in keys. With it, the chosen blocks are the fastest measured on a CPU: 64 tokens for a window of 128 tokens, and 16 for
the strided pattern with a stride of 128. For 2,048 tokens, a gradient took 25, 20, 18, 20 and 34 ms with blocks of 16, 32, 64, 128 and 256 for the former, and
59, 63, 97, 154 and 126 ms for the latter."""
WORTHWHILE = 0.75
"""Share of the keys up to which blocks of keys are fetched. With more, all keys are used as they are."""


@dataclass(frozen=True)
class Layout:
    """The blocks of keys that a block of queries attends to.

    size:      number of tokens in a block.
    distances: distance in blocks from the queries back to each block of keys; negative for later keys.
    summaries: number of further keys of the whole row, the ends of its periods (`Sparse.has_summaries`).
    """

    size: int
    distances: tuple[int, ...]
    summaries: int

    @property
    def keys(self) -> int:
        """Number of keys for each query."""
        return self.size * len(self.distances) + self.summaries


def layout_of(request: Request) -> Layout | None:
    """Return the layout with the least cost; None if the mask has no such structure, or nearly all keys are needed."""
    mask, length = request.mask, request.q.shape[1]
    structured = mask.self_attention and (mask.window is not None or mask.sparse is not None)
    if not structured or request.bias is not None or mask.prefix is not None or mask.memory is not None:
        return None
    if axis_size("context") > 1 or not isinstance(length, int):  # a symbolic length
        return None
    sizes = {request.block}
    while min(sizes) // 2 >= SMALLEST:
        sizes.add(min(sizes) // 2)
    if mask.sparse is not None:
        stride = mask.sparse.stride
        sizes |= {size for size in range(SMALLEST, min(stride, request.block) + 1) if stride % size == 0}
    layouts = [_layout(mask, length, size) for size in sizes if size <= length]
    layouts = [one for one in layouts if 0 < one.keys <= WORTHWHILE * length]
    return min(layouts, key=lambda one: (one.keys + OVERHEAD * len(one.distances), -one.size), default=None)


def _layout(mask: Mask, length: int, size: int) -> Layout:
    count = -(-length // size)
    distances = tuple(
        one for one in range(1 - count, count) if _may_see(mask, one * size - size + 1, one * size + size - 1)
    )
    sparse = mask.sparse
    # A text of n tokens has at most n * summaries / stride of them.
    summaries = length * sparse.summaries // sparse.stride if sparse is not None and sparse.has_summaries else 0
    return Layout(size, distances, summaries)


def _may_see(mask: Mask, shortest: int, longest: int) -> bool:
    """Return whether a query may see a key between `shortest` and `longest` tokens before it; negative numbers are after it."""
    if mask.causal and longest < 0:
        return False
    if mask.window is not None:
        before, after = (mask.window - 1, 0) if mask.causal else mask.reach
        if shortest > before or longest < -after:
            return False
    return mask.sparse is None or mask.sparse.near(shortest, longest)


def block_sparse(request: Request, layout: Layout) -> Float[Array, "B q H D"]:
    """Attend with blocks of `layout.size` queries, `request.block` queries in parallel, and compute their logits again in the backward pass."""
    mask, size, length = request.mask, layout.size, request.q.shape[1]
    together = max(min(request.block, length) // size, 1)
    count = -(-length // (size * together)) * together
    assert mask.index is not None, "a window or a pattern needs the queries' index"
    index = jnp.asarray(mask.index)
    segments = jnp.asarray(mask.queries)
    summaries = _summaries(request, layout) if layout.summaries else None
    seen_as = segments if summaries is None else jnp.where(_at_ends(mask), 0, segments)  # each key once

    def split(x: jax.Array) -> Array:
        """Return [B L ...] as blocks [B count size ...], with padding at the end."""
        x = jnp.pad(x, ((0, 0), (0, count * size - length), *[(0, 0)] * (x.ndim - 2)))
        return x.reshape(x.shape[0], count, size, *x.shape[2:])

    keys, values, key_segments, key_index = map(split, (request.k, request.v, seen_as, index))
    distances = jnp.asarray(layout.distances, jnp.int32)
    blocks = {"number": jnp.arange(count)}
    blocks |= {
        name: jnp.moveaxis(split(x), 1, 0) for name, x in (("q", request.q), ("segments", segments), ("index", index))
    }
    if request.key is not None:
        blocks["key"] = jax.random.split(request.key, count)

    def attend(part: dict[str, jax.Array]) -> Float[Array, "B size H D"]:
        key = part.pop("key", None)
        part = jax.lax.optimization_barrier(part)  # as in `chunked`: otherwise XLA keeps the masks of all blocks
        number = part["number"] - distances
        valid = jnp.repeat((number >= 0) & (number < count), size)

        def fetched(x: Array) -> Array:
            """Return the blocks of keys, [B keys ...]."""
            found = jnp.take(x, number, axis=1, mode="clip")
            return found.reshape(found.shape[0], distances.shape[0] * size, *found.shape[3:])

        k, v, at = fetched(keys), fetched(values), fetched(key_index)
        seen = jnp.where(valid, fetched(key_segments), 0)
        if summaries is not None:
            k, v, at, seen = (
                jnp.concatenate([one, more], axis=1) for one, more in zip((k, v, at, seen), summaries, strict=True)
            )
        part_mask = dataclasses.replace(
            mask, queries=part["segments"], keys=seen, index=part["index"], key_index=at, self_attention=False
        )
        return attend_with_bias(dataclasses.replace(request, q=part["q"], k=k, v=v, mask=part_mask, key=key), None)

    out = jax.lax.map(jax.checkpoint(attend), blocks, batch_size=together)
    out = jnp.moveaxis(out, 0, 1).reshape(request.q.shape[0], count * size, *request.q.shape[2:])
    return out[:, :length]


def _at_ends(mask: Mask) -> Bool[Array, "B L"]:
    """Return which keys are at the ends of periods."""
    assert mask.sparse is not None
    return mask.sparse.summarizes(jnp.asarray(mask.index)) & (jnp.asarray(mask.keys) > 0)


def _summaries(request: Request, layout: Layout) -> tuple[Array, Array, Array, Array]:
    """Return keys, values, positions and segments of the ends of all periods in each row, [B summaries ...]; those that a row lacks have segment 0."""
    ends = _at_ends(request.mask)
    places = jnp.argsort(~ends, axis=1, stable=True)[:, : layout.summaries]

    def at_places(x: Array) -> Array:
        return jnp.take_along_axis(x, places.reshape(*places.shape, *[1] * (x.ndim - 2)), axis=1)

    segments = jnp.where(at_places(ends), at_places(jnp.asarray(request.mask.keys)), 0)
    return at_places(request.k), at_places(request.v), at_places(jnp.asarray(request.mask.index)), segments
