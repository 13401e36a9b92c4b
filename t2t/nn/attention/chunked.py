"""Attention that holds the logits of one block of queries at a time and recomputes them in the backward pass (after Rabe & Staats 2021)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from t2t.nn.attention.block_sparse import block_sparse, layout_of
from t2t.nn.attention.einsum import attend_with_bias, einsum
from t2t.nn.attention.request import Bias, Request
from t2t.sharding import axis_size


def chunked(request: Request) -> Float[Array, "B q H D"]:
    """Attend with a block of queries at a time. If the mesh divides rows along their length, each device processes blocks of its own strip.

    With a window or a sparsity pattern, blocks of keys that no query of a block sees are not computed, see `t2t.nn.attention.block_sparse`.
    """
    if (layout := layout_of(request)) is not None:
        return block_sparse(request, layout)
    length, size, strips = request.q.shape[1], request.block, axis_size("context")
    strip = length // strips
    if strip <= size:
        return einsum(request)
    count = -(-strip // size)

    def split(x: jax.Array, axis: int) -> jax.Array:
        """Return x with the axis of its queries of size [strips * size], and a leading axis of blocks."""
        before, after = x.shape[:axis], x.shape[axis + 1 :]
        x = x.reshape(*before, strips, strip, *after)
        widths = [(0, 0)] * x.ndim
        widths[axis + 1] = (0, count * size - strip)
        x = jnp.pad(x, widths).reshape(*before, strips, count, size, *after)
        return jnp.moveaxis(x, axis + 1, 0).reshape(count, *before, strips * size, *after)

    blocks = {
        "start": jnp.arange(count) * size,
        "q": split(request.q, 1),
        "queries": split(jnp.asarray(request.mask.queries), 1),
    }
    if request.mask.index is not None:
        blocks["index"] = split(jnp.asarray(request.mask.index), 1)
    if request.key is not None:
        blocks["key"] = jax.random.split(request.key, count)
    if request.bias is not None and not callable(request.bias):
        blocks["bias"] = split(request.bias, 2)

    def block_bias(bias: Bias, start: jax.Array, q: Float[Array, "B rows H D"]) -> Float[Array, "#B H rows k"]:
        by_strip = q.reshape(q.shape[0], strips, size, *q.shape[2:])
        of_strips = jax.vmap(bias, in_axes=(0, 1), out_axes=2)(start + jnp.arange(strips) * strip, by_strip)
        return of_strips.reshape(*of_strips.shape[:2], strips * size, of_strips.shape[-1])

    def attend(part: dict[str, jax.Array]) -> Float[Array, "B rows H D"]:
        # Masks and biases are the same in all layers. Without a dependency on the queries, XLA would compute them once for all blocks and keep them.
        key = part.pop("key", None)
        part = jax.lax.optimization_barrier(part)
        mask = dataclasses.replace(request.mask, self_attention=False, queries=part["queries"], index=part.get("index"))
        bias = block_bias(request.bias, part["start"], part["q"]) if callable(request.bias) else part.get("bias")
        block_request = dataclasses.replace(request, q=part["q"], mask=mask, bias=None, key=key)
        return attend_with_bias(block_request, bias)

    out = jax.lax.map(jax.checkpoint(attend), blocks)
    out = out.reshape(count, out.shape[1], strips, size, *out.shape[3:])
    out = jnp.moveaxis(out, 0, 2).reshape(out.shape[1], strips, count * size, *out.shape[4:])
    return out[:, :, :strip].reshape(request.q.shape[0], length, *out.shape[3:])
