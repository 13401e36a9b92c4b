"""JAX's flash attention on TPUs: a fused kernel with a bias and its gradient (after Dao et al. 2022)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from t2t.nn.attention.blocks import block_size, check_causal, heads_first, heads_last, padded, padded_segments
from t2t.nn.attention.request import Request, blank
from t2t.sharding import per_device

_ROWS = ("batch", "heads", None, None)
_IDS = ("batch", None)


def flash(request: Request) -> Float[Array, "B q H D"]:
    """Attend with the kernel. Rows are padded to a multiple of 128.

    The logits are never in memory. The whole bias is, in float32. If all rows have the same bias, memory holds only [1 H q k] of it and of its gradient; then
    rows go through the kernel one by one. Raises UserError for a causal mask without `self_attention`.
    """
    mask, bias = request.mask, request.whole_bias()
    check_causal("flash", mask)
    arrays = [heads_first(request.q), *(heads_first(x) for x in request.repeated())]
    arrays += [padded_segments(mask.queries), padded_segments(mask.keys)]
    axes = [_ROWS, _ROWS, _ROWS, _IDS, _IDS]
    if bias is not None:
        heads, (queries, keys) = request.q.shape[2], bias.shape[2:]
        bias = jnp.broadcast_to(bias.astype(jnp.float32), (bias.shape[0], heads, queries, keys))
        arrays.append(jnp.pad(bias, ((0, 0), (0, 0), (0, padded(queries) - queries), (0, padded(keys) - keys))))
        axes.append((None if bias.shape[0] == 1 else "batch", "heads", None, None))
    attend = _all_rows if bias is None or bias.shape[0] != 1 else _row_by_row

    def divided(*arrays: jax.Array) -> jax.Array:
        return attend(*arrays, causal=mask.causal, max_block=request.block)

    out = per_device(divided, tuple(axes), _ROWS)(*arrays)
    return blank(heads_last(out, request.q.shape[1]), mask.sees())


def _row_by_row(
    q: Float[Array, "B H P D"],
    k: Float[Array, "B H S D"],
    v: Float[Array, "B H S D"],
    query_segments: jax.Array,
    key_segments: jax.Array,
    bias: Float[Array, "1 H P S"],
    *,
    causal: bool,
    max_block: int,
) -> Float[Array, "B H P D"]:
    def one(row: tuple[jax.Array, ...]) -> jax.Array:
        q, k, v, query_segments, key_segments = (x[None] for x in row)
        return _all_rows(q, k, v, query_segments, key_segments, bias, causal=causal, max_block=max_block)[0]

    return jax.lax.map(one, (q, k, v, query_segments, key_segments))


def _all_rows(
    q: Float[Array, "B H P D"],
    k: Float[Array, "B H S D"],
    v: Float[Array, "B H S D"],
    query_segments: jax.Array,
    key_segments: jax.Array,
    bias: Float[Array, "B H P S"] | None = None,
    *,
    causal: bool,
    max_block: int,
) -> Float[Array, "B H P D"]:
    from jax.experimental.pallas.ops.tpu import flash_attention as kernels

    rows, columns = block_size(q.shape[2], max_block), block_size(k.shape[2], max_block)
    sizes = kernels.BlockSizes(
        block_q=rows,
        block_k_major=columns,
        block_k=columns,
        block_b=1,
        block_q_major_dkv=rows,
        block_k_major_dkv=columns,
        block_k_dkv=columns,
        block_q_dkv=rows,
        block_k_major_dq=columns,
        block_k_dq=columns,
        block_q_dq=rows,
    )
    ids = kernels.SegmentIds(query_segments, key_segments)
    return kernels.flash_attention(q, k, v, bias, ids, causal=causal, block_sizes=sizes)
