"""Attention as a function of queries, keys and values, with several backends (Vaswani et al. 2017).

Every backend computes the same thing or refuses. A backend is a function of `_Call`; a new one (splash, flash) is an entry in `BACKENDS`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from t2t.errors import UserError, nearest
from t2t.nn.dropout import dropout as drop
from t2t.nn.masks import Mask
from t2t.sharding import axis_size

Backend = Literal["einsum", "chunked", "cudnn"]
Bias = Callable[[int | jax.Array, int], Float[Array, "#B H rows k"]]
"""A bias by blocks: (first query, number of queries) -> bias of these on all keys."""

_HIDDEN = -1e30
"""Logit of what is not seen: far below any other, and finite, so that a row of nothing else is no NaN."""


@dataclass(frozen=True, kw_only=True)
class _Call:
    q: Float[Array, "B q H D"]
    k: Float[Array, "B k K D"]
    v: Float[Array, "B k K D"]
    mask: Mask
    bias: Float[Array, "#B #H q k"] | Bias | None
    dropout: float
    key: jax.Array | None
    block: int


def attention(
    q: Float[Array, "B q H D"],
    k: Float[Array, "B k K D"],
    v: Float[Array, "B k K D"],
    *,
    mask: Mask,
    bias: Float[Array, "#B #H q k"] | Bias | None = None,
    scale: float = 1.0,
    dropout: float = 0.0,
    dropout_key: jax.Array | None = None,
    backend: Backend = "einsum",
    block: int = 256,
) -> Float[Array, "B q H D"]:
    """Weigh values by the softmax, in float32, of `scale * q . k + bias` over the keys that `mask` lets a query see.

    A query that sees no key gets 0. H must be a multiple of K: each head of keys serves H / K heads of queries.

    bias:    added to the logits: an array, or a function that makes a block of its rows (`t2t.nn.relative.RelativeBias.block`).
    dropout: rate at which weights are dropped where there is a key.
    backend: "einsum" holds all logits; "chunked" those of `block` queries at a time, and computes them again in the backward pass, so that memory
             is linear in the number of queries (after Rabe & Staats 2021); "cudnn" is cuDNN's fused kernel on NVIDIA GPUs.

    Raises:
        UserError: the backend is unknown or cannot honour an argument.
    """
    if backend not in BACKENDS:
        raise UserError(f"unknown attention backend {backend!r}.{nearest(backend, BACKENDS)}")
    call = _Call(
        q=q * scale if scale != 1.0 else q,
        k=k,
        v=v,
        mask=mask,
        bias=bias,
        dropout=dropout,
        key=dropout_key,
        block=block,
    )
    return BACKENDS[backend](call)


def _weigh(call: _Call, bias: Float[Array, "#B #H q k"] | None) -> Float[Array, "B q H D"]:
    q, k, v = call.q, call.k, call.v
    if k.shape[2] != q.shape[2]:
        k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32)
    if bias is not None:
        logits = _add_bias(logits, bias)
    seen = call.mask.dense()
    weights = jax.nn.softmax(jnp.where(seen, logits, _HIDDEN), axis=-1).astype(v.dtype)
    out = jnp.einsum("bhqk,bkhd->bqhd", drop(weights, call.dropout, call.key), v)
    return _blank(out, seen)


@jax.custom_vjp
def _add_bias(logits: Float[Array, "B H q k"], bias: Float[Array, "#B #H q k"]) -> Float[Array, "B H q k"]:
    """Return the sum. Where one bias serves all rows, its gradient is a product with ones: XLA's CPU sums over the first axis took 70 times as long."""
    return logits + bias


def _add_bias_forward(logits: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
    return logits + bias, jnp.zeros((0, *bias.shape[:2]), bias.dtype)


def _add_bias_backward(like: jax.Array, slope: jax.Array) -> tuple[jax.Array, jax.Array]:
    rows, heads = like.shape[1:]
    total = slope
    if rows == 1:
        total = jnp.einsum("b,bhqk->hqk", jnp.ones(slope.shape[0], slope.dtype), slope)[None]
    if heads == 1:
        total = jnp.sum(total, axis=1, keepdims=True)
    return slope, total.astype(like.dtype)


_add_bias.defvjp(_add_bias_forward, _add_bias_backward)


def _blank(out: Float[Array, "B q H D"], seen: jax.Array) -> Float[Array, "B q H D"]:
    """Give 0 to queries that see nothing, whose softmax is even over all keys."""
    return jnp.where(jnp.any(seen, axis=-1)[:, 0, :, None, None], out, jnp.zeros((), out.dtype))


def _rows(call: _Call) -> Float[Array, "#B #H q k"] | None:
    return call.bias(0, call.q.shape[1]) if callable(call.bias) else call.bias


def _einsum(call: _Call) -> Float[Array, "B q H D"]:
    return _weigh(call, _rows(call))


def _chunked(call: _Call) -> Float[Array, "B q H D"]:
    # Where the mesh divides the queries' length, each device goes through blocks of its own strip of them.
    length, size, strips = call.q.shape[1], call.block, axis_size("context")
    strip = length // strips
    if strip <= size:
        return _einsum(call)
    count = -(-strip // size)

    def split(x: jax.Array, axis: int) -> jax.Array:
        """Return x with its queries' axis as [strips * size], and an axis of the blocks in front."""
        before, after = x.shape[:axis], x.shape[axis + 1 :]
        x = x.reshape(*before, strips, strip, *after)
        widths = [(0, 0)] * x.ndim
        widths[axis + 1] = (0, count * size - strip)
        x = jnp.pad(x, widths).reshape(*before, strips, count, size, *after)
        return jnp.moveaxis(x, axis + 1, 0).reshape(count, *before, strips * size, *after)

    blocks = {
        "start": jnp.arange(count) * size,
        "q": split(call.q, 1),
        "queries": split(jnp.asarray(call.mask.queries), 1),
    }
    if call.mask.index is not None:
        blocks["index"] = split(jnp.asarray(call.mask.index), 1)
    if call.key is not None:
        blocks["key"] = jax.random.split(call.key, count)
    if call.bias is not None and not callable(call.bias):
        blocks["bias"] = split(call.bias, 2)

    def bias_from(bias: Bias, start: jax.Array) -> Float[Array, "#B H rows k"]:
        of_strips = jax.vmap(lambda first: bias(first, size), out_axes=2)(start + jnp.arange(strips) * strip)
        return of_strips.reshape(*of_strips.shape[:2], strips * size, of_strips.shape[-1])

    def attend(part: dict[str, jax.Array]) -> Float[Array, "B rows H D"]:
        mask = dataclasses.replace(call.mask, queries=part["queries"], index=part.get("index"))
        bias = bias_from(call.bias, part["start"]) if callable(call.bias) else part.get("bias")
        own = dataclasses.replace(call, q=part["q"], mask=mask, bias=None, key=part.get("key"))
        return _weigh(own, bias)

    out = jax.lax.map(jax.checkpoint(attend), blocks)
    out = out.reshape(count, out.shape[1], strips, size, *out.shape[3:])
    out = jnp.moveaxis(out, 0, 2).reshape(out.shape[1], strips, count * size, *out.shape[4:])
    return out[:, :, :strip].reshape(call.q.shape[0], length, *out.shape[3:])


def _cudnn(call: _Call) -> Float[Array, "B q H D"]:
    def refuse(reason: str) -> UserError:
        return UserError(f"attention backend 'cudnn' {reason}. Use 'einsum' or 'chunked'.")

    if call.dropout > 0.0 and call.key is not None:
        raise refuse(f"has no dropout (attention dropout is {call.dropout})")
    if axis_size("context") > 1:
        raise refuse("is not divided along the length of rows (--mesh.context)")
    if call.bias is not None:
        # cuDNN returns a bias' gradient only for one shape and JAX leaves it out, as zeros, once a mask is folded into the bias
        raise refuse("gives no gradient to a bias (relative positions) beside a mask of segments")
    if call.q.dtype not in (jnp.bfloat16, jnp.float16):
        raise refuse(f"computes in bfloat16 or float16, not in {call.q.dtype}")
    if jax.default_backend() != "gpu":
        raise refuse(f"runs on NVIDIA GPUs, not on {jax.default_backend()}")
    if call.q.shape[1] % 2 or call.k.shape[1] % 2:
        raise refuse(f"needs even lengths, not {call.q.shape[1]} queries and {call.k.shape[1]} keys")
    seen = call.mask.dense()
    try:
        out = jax.nn.dot_product_attention(call.q, call.k, call.v, mask=seen, scale=1.0, implementation="cudnn")
    except (NotImplementedError, RuntimeError, ValueError) as error:
        raise refuse(f"refused: {' '.join(str(error).split())}") from error
    return _blank(out, seen)


BACKENDS: dict[str, Callable[[_Call], jax.Array]] = {"einsum": _einsum, "chunked": _chunked, "cudnn": _cudnn}
assert set(BACKENDS) == set(get_args(Backend))
