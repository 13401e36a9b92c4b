"""JAX's "splash" attention on TPUs: a fused kernel that skips the blocks that a mask hides (after Dao et al. 2022)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from t2t.nn.attention.blocks import block_size, check_causal, heads_first, heads_last, padded_segments
from t2t.nn.attention.request import Request, blank
from t2t.nn.masks import Mask
from t2t.sharding import per_device
from t2t.types import Array

_ROWS = ("batch", "heads", None, None)
_IDS = ("batch", None)


def splash(request: Request) -> Float[jax.Array, "B q H D"]:
    """Attend with the kernel. Memory is linear in the length, also in the backward pass. Rows are padded to a multiple of 128.

    Raises UserError for a causal mask without `self_attention`.
    """
    mask = request.mask
    check_causal("splash", mask)
    arrays = [heads_first(request.q), heads_first(request.k), heads_first(request.v)]
    arrays += [padded_segments(mask.queries), padded_segments(mask.keys)]
    axes = [_ROWS, _ROWS, _ROWS, _IDS, _IDS]
    if mask.prefix is not None:
        arrays.append(_last_seen(arrays[-1], mask.prefix))
        axes.append(_IDS)

    def attend(q: jax.Array, k: jax.Array, v: jax.Array, *ids: jax.Array) -> jax.Array:
        kernel = _kernel(mask, q.shape[1], q.shape[2], k.shape[2], request.block)
        return jax.vmap(kernel)(q, k, v, *ids)

    out = per_device(attend, tuple(axes), _ROWS)(*arrays)
    return blank(heads_last(out, request.q.shape[1]), mask.sees())


def _last_seen(ids: Int[Array, "B P"], prefix: Int[Array, "B L"]) -> Int[jax.Array, "B P"]:
    """Return the last key of its own segment that each query sees: itself, or the end of the prefix for a query in the prefix."""
    length = ids.shape[1]
    in_prefix = jnp.pad(jnp.asarray(prefix), ((0, 0), (0, length - prefix.shape[1]))) > 0
    index = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), ids.shape)
    continues = in_prefix[:, 1:] & in_prefix[:, :-1] & (ids[:, 1:] == ids[:, :-1])
    end = jnp.where(jnp.pad(continues, ((0, 0), (0, 1))), length, index)
    return jax.lax.cummin(end, axis=1, reverse=True)


def _kernel(mask: Mask, heads: int, queries: int, keys: int, max_block: int) -> Any:
    """Return the kernel of one row: (q, k, v, segments of queries, segments of keys[, last key seen]) -> out, with shapes [H P D]."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask_info as infos

    rows, columns = block_size(queries, max_block), block_size(keys, max_block)
    sizes = kernels.BlockSizes(
        block_q=rows,
        block_kv=columns,
        block_q_dkv=rows,
        block_kv_dkv=columns,
        block_kv_dkv_compute=columns,
        block_q_dq=rows,
        block_kv_dq=columns,
    )
    shape = (queries, keys)
    if mask.prefix is not None:
        # The prefix is data, so no block can be skipped. The query positions that the causal mask compares differ from row to row.
        def with_prefix(q: Any, k: Any, v: Any, query_segments: Any, key_segments: Any, last: Any) -> Any:
            info = infos.MaskInfo(None, None, None, None, last)
            kernel = kernels.SplashAttentionKernel(
                info,
                info,
                info,
                block_sizes=sizes,
                is_mqa=False,
                save_residuals=False,
                mask_value=kernels.DEFAULT_MASK_VALUE,
                attn_logits_soft_cap=None,
                residual_checkpoint_name=None,
                mask_function=_at_or_before,
                interpret=False,
            )
            return kernel(q, k, v, segment_ids=kernels.SegmentIds(query_segments, key_segments))

        return with_prefix
    one: masks.Mask
    if not mask.causal and mask.window is None:
        one = masks.FullMask(shape)
    elif not mask.causal:
        one = masks.LocalMask(shape, mask.reach, 0)
    elif mask.window is None:
        one = masks.CausalMask(shape)
    else:
        one = masks.LocalMask(shape, (mask.window - 1, 0), 0)
    kernel = kernels.make_splash_mha(
        masks.MultiHeadMask([one] * heads), block_sizes=sizes, head_shards=1, q_seq_shards=1
    )

    def attend(q: Any, k: Any, v: Any, query_segments: Any, key_segments: Any) -> Any:
        return kernel(q, k, v, segment_ids=kernels.SegmentIds(query_segments, key_segments))

    return attend


def _at_or_before(last: jax.Array, keys: jax.Array) -> jax.Array:
    return keys <= last
