"""A scan over chunks of packed rows, for layers with a memory that tokens write to. The memory belongs to one example, so a new example starts with zeros."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from t2t.nn.recurrent.chunks import join, split
from t2t.nn.recurrent.segments import epochs
from t2t.types import Array as AnyArray


class Belonging(NamedTuple):
    """Which positions of a chunk belong together, and which belong to the example of the memory. C is the length of the chunk.

    Padding belongs to the example before it, so it must neither write to the memory nor let it decay.

    pairs:  whether a position (second axis) sees another one of the chunk (third axis): itself, and those before it in the same example.
    reads:  whether a position sees the memory that the chunk begins with.
    writes: whether the memory that the chunk ends with has what the position writes.
    keeps:  whether the memory that the chunk ends with has what it began with.
    """

    pairs: Bool[Array, "B C C"]
    reads: Bool[Array, "B C"]
    writes: Bool[Array, "B C"]
    keeps: Bool[Array, "B"]


def over_chunks(
    function: Callable[[Any, Any, Belonging], tuple[Any, Array]],
    memory: Any,
    parts: Any,
    segments: Int[AnyArray, "B L"],
    size: int,
) -> tuple[Float[Array, "B L *S"], Any]:
    """Return the outputs of whole rows, and the memory after the last token of each row.

    The backward pass computes each chunk again, so only one chunk at a time has its intermediate results in memory.

    function: (memory, parts of a chunk, belonging) -> (memory after the chunk, outputs of its positions).
    memory:   what rows begin with: zeros.
    parts:    arrays of positions, [B L ...]. Zeros fill the last chunk.
    size:     length of a chunk in tokens.
    """
    length = segments.shape[1]

    def body(memory: Any, given: tuple[Any, tuple[Array, Array]]) -> tuple[Any, Array]:
        chunk, examples = given
        return function(memory, chunk, belonging(*examples))

    cut = (jax.tree.map(lambda x: split(x, size), parts), chunk_examples(segments, size))
    memory, out = jax.lax.scan(jax.checkpoint(body, prevent_cse=False), memory, cut)
    return join(out, length), memory


def chunk_examples(segments: Int[AnyArray, "B L"], size: int) -> tuple[Int[Array, "N B C"], Int[Array, "N B"]]:
    """Return the number of the example of each position, by chunk, and that of the example that the memory belongs to when the chunk begins."""
    examples = jnp.pad(epochs(segments), ((0, 0), (0, -segments.shape[1] % size)), mode="edge")
    cut = split(examples, size)
    return cut, jnp.concatenate([jnp.zeros_like(cut[:1, :, 0]), cut[:-1, :, -1]])


def belonging(example: Int[Array, "B C"], owner: Int[Array, "B"]) -> Belonging:
    """Return what belongs together in one chunk. Arguments: one chunk of `chunk_examples`."""
    end, size = example[:, -1], example.shape[1]
    return Belonging(
        pairs=(example[:, :, None] == example[:, None, :]) & jnp.tril(jnp.ones((size, size), bool)),
        reads=example == owner[:, None],
        writes=example == end[:, None],
        keeps=owner == end,
    )


def pair_decay(total: Float[Array, "B C *H"], pairs: Bool[Array, "B C C"]) -> Float[Array, "B *H C C"]:
    """Return how much is left at each position (next to last axis) of what each earlier one (last axis) wrote; 0 for pairs that do not see each other.

    total: sum of the logarithms of the decays, from the beginning of the chunk to each position.
    """
    along = jnp.moveaxis(total, 1, -1)
    seen = pairs.reshape(pairs.shape[0], *[1] * (total.ndim - 2), *pairs.shape[1:])
    # The difference of a hidden pair may be positive and its exponential infinite, so it is hidden first.
    return jnp.exp(jnp.where(seen, along[..., :, None] - along[..., None, :], -jnp.inf))
