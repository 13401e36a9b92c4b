"""Attention of one more position a row on what is cached: memory-bound, so that the cache is read once and written nowhere."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from t2t.nn.attention.einsum import HIDDEN
from t2t.nn.masks import Mask


def attend_step(
    q: Float[Array, "R 1 H D"],
    keys: Float[Array, "B K L D"],
    values: Float[Array, "B K L D"],
    *,
    mask: Mask,
    bias: Float[Array, "#R H 1 L"] | None = None,
    scale: float = 1.0,
    own: tuple[Int[Array, "R"], Float[Array, "R K 1 D"], Float[Array, "R K 1 D"]] | None = None,
) -> Float[Array, "R 1 H D"]:
    """Weigh cached values by the softmax, in float32, of `scale * q . keys + bias`; a query that sees nothing gets 0.

    R is a multiple of B: each row of the cache then serves so many queries in a row, the beams of one prompt on its encoder's output. H is a multiple
    of K (grouped queries). Neither is repeated in memory.

    mask: [R 1] or, where rows share a cache, [B 1] queries on L keys.
    own:  where each row's own position is, with its key and value, which count in place of what the cache holds there.
    """
    rows, _, heads, width = q.shape
    batch, groups, length, _ = keys.shape
    shared = rows // batch
    assert own is None or shared == 1, "rows that share a cache add nothing to it"

    def grouped(x: jax.Array) -> jax.Array:
        """Return [R H ...] as [B K (R / B * H / K) ...]."""
        x = x.reshape(batch, shared, groups, heads // groups, *x.shape[2:])
        return jnp.moveaxis(x, 1, 2).reshape(batch, groups, shared * heads // groups, *x.shape[4:])

    queries = grouped((q * scale if scale != 1.0 else q)[:, 0])
    logits = jnp.einsum("bkgd,bkld->bkgl", queries, keys, preferred_element_type=jnp.float32)
    here = None
    if own is not None:
        here = (jnp.arange(length)[None] == own[0][:, None])[:, None, None]
        logits = jnp.where(here, jnp.einsum("bkgd,bkod->bkgo", queries, own[1]).astype(logits.dtype), logits)
    if bias is not None:
        logits = logits + grouped(jnp.broadcast_to(bias[:, :, 0], (rows, heads, length)))
    seen = mask.dense()
    weights = jax.nn.softmax(jnp.where(seen, logits, HIDDEN), axis=-1).astype(values.dtype)
    if here is None or own is None:
        out = jnp.einsum("bkgl,bkld->bkgd", weights, values)
    else:
        out = jnp.einsum("bkgl,bkld->bkgd", jnp.where(here, 0, weights), values)
        out = out + jnp.sum(jnp.where(here, weights, 0), axis=-1, keepdims=True) * own[2]
    out = jnp.where(jnp.any(seen, axis=-1, keepdims=True), out, jnp.zeros((), out.dtype))
    out = out.reshape(batch, groups, shared, heads // groups, width)
    return jnp.moveaxis(out, 2, 1).reshape(rows, 1, heads, width)
