"""Attention of one new position per row over a cache. It is limited by memory bandwidth, so the cache is read once and not copied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from t2t.nn.attention.einsum import HIDDEN, capped, softmax
from t2t.nn.masks import Mask


class Shared(NamedTuple):
    """Keys and values that R / B consecutive rows share, which come before their own: of the prompt of hypotheses (Athiwaratkun et al. 2024), or of an encoder.

    mask: mask of [R 1] queries over P keys.
    """

    keys: Float[Array, "B K P D"]
    values: Float[Array, "B K P D"]
    mask: Mask
    bias: Float[Array, "#R H 1 P"] | None = None


def attend_step(
    q: Float[Array, "R 1 H D"],
    keys: Float[Array, "B K L D"],
    values: Float[Array, "B K L D"],
    *,
    mask: Mask,
    bias: Float[Array, "#R H 1 L"] | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
    sinks: Float[Array, "H"] | None = None,
    own: tuple[Int[Array, "R"], Float[Array, "R K 1 D"], Float[Array, "R K 1 D"]] | None = None,
    shared: Sequence[Shared] = (),
) -> Float[Array, "R 1 H D"]:
    """Return the cached values weighted by the float32 softmax of `scale * q . keys + bias`. A query that sees no key gets 0.

    R is a multiple of B: each row of the cache serves R / B consecutive queries, such as the beams of one prompt on its encoder's output. H is a multiple
    of K (grouped queries). Neither is repeated in memory.

    softcap, sinks: see `t2t.nn.attention.attention`.
    mask: mask of [R 1] queries or, if rows share a cache, [B 1] queries over L keys.
    own:  place of each row's own position in the cache, with its key and value, which replace the entry there.
    shared: additional keys and values in the same softmax.
    """
    rows = q.shape[0]
    batch, groups, length, _ = keys.shape
    assert (own is None and not shared) or batch == rows, "rows that share a cache cannot add entries to it"
    queries = (q * scale if scale != 1.0 else q)[:, 0]
    logits = capped(_logits(queries, keys), softcap)
    if own is not None:
        logits = jnp.where(_one_hot(own[0], length), capped(_logits(queries, own[1]), softcap), logits)
    if bias is not None:
        logits = logits + _grouped(_broadcast_bias(bias, rows), batch, groups)
    seen = mask.dense()
    if shared:
        seen = jnp.concatenate([*(part.mask.dense() for part in shared), seen], axis=-1)
        logits = jnp.concatenate([*(_shared_logits(queries, part, softcap, batch) for part in shared), logits], axis=-1)
    sink = None if sinks is None else _grouped(jnp.broadcast_to(sinks[:, None], (rows, *sinks.shape, 1)), batch, groups)
    weights = softmax(jnp.where(seen, logits, HIDDEN), sink).astype(values.dtype)
    own_weights = weights[..., weights.shape[-1] - length :]
    if own is None:
        out = jnp.einsum("bkgl,bkld->bkgd", own_weights, values)
    else:
        is_own = _one_hot(own[0], length)
        out = jnp.einsum("bkgl,bkld->bkgd", jnp.where(is_own, 0, own_weights), values)
        out = out + jnp.sum(jnp.where(is_own, own_weights, 0), axis=-1, keepdims=True) * own[2]
    begin = 0
    for part in shared:
        end = begin + part.keys.shape[2]
        part_weights = _grouped(_ungrouped(weights[..., begin:end], rows), part.values.shape[0], groups)
        part_out = jnp.einsum("bkgl,bkld->bkgd", part_weights, part.values)
        out, begin = out + _grouped(_ungrouped(part_out, rows), batch, groups), end
    out = jnp.where(jnp.any(seen, axis=-1, keepdims=True), out, jnp.zeros((), out.dtype))
    return _ungrouped(out, rows)[:, None]


def _shared_logits(
    q: Float[Array, "R H D"], shared: Shared, softcap: float | None, batch: int
) -> Float[Array, "B K G P"]:
    """Return the logits of the queries over shared keys, grouped for `batch` rows."""
    rows = q.shape[0]
    logits = _ungrouped(capped(_logits(q, shared.keys), softcap), rows)
    if shared.bias is not None:
        logits = logits + _broadcast_bias(shared.bias, rows)
    return _grouped(logits, batch, shared.keys.shape[1])


def _logits(q: Float[Array, "R H D"], keys: Float[Array, "B K L D"]) -> Float[Array, "B K G L"]:
    queries = _grouped(q, *keys.shape[:2])
    return jnp.einsum("bkgd,bkld->bkgl", queries, keys, preferred_element_type=jnp.float32)


def _broadcast_bias(bias: Float[Array, "#R H 1 L"], rows: int) -> Float[Array, "R H L"]:
    return jnp.broadcast_to(bias[:, :, 0], (rows, bias.shape[1], bias.shape[3]))


def _one_hot(place: Int[Array, "R"], length: int) -> Bool[Array, "R 1 1 L"]:
    return (jnp.arange(length)[None] == place[:, None])[:, None, None]


def _grouped(x: Float[Array, "R H *S"], batch: int, groups: int) -> Float[Array, "B K G *S"]:
    """Group the queries' axis by key heads: G is (R / B) (H / K), with rows first."""
    rows, heads = x.shape[:2]
    x = x.reshape(batch, rows // batch, groups, heads // groups, *x.shape[2:])
    return jnp.moveaxis(x, 1, 2).reshape(batch, groups, rows // batch * (heads // groups), *x.shape[4:])


def _ungrouped(x: Float[Array, "B K G *S"], rows: int) -> Float[Array, "R H *S"]:
    """Invert `_grouped`."""
    batch, groups, each = x.shape[:3]
    x = x.reshape(batch, groups, rows // batch, each * batch // rows, *x.shape[3:])
    return jnp.moveaxis(x, 2, 1).reshape(rows, groups * each * batch // rows, *x.shape[4:])
