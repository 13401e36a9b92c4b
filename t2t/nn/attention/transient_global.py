"""Transient-global attention of LongT5's encoder: each token sees the tokens near it and the sums of all blocks of tokens (Guo et al. 2022, section 3.2).

A block is `global_block` tokens of one segment, counted from its first token. The tokens after the last whole block belong to that block. A segment
without a whole block has none. The sums exist in one layer only ("transient"): each layer sums its own inputs, normalizes the sums, and computes their keys
and values with the kernels of the tokens.

A row of L tokens has L (3 (w + 1) + L / b) logits, for a window of w tokens to either side and blocks of b tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from t2t.errors import UserError
from t2t.limits import Length
from t2t.nn.attention.config import LOGIT_BYTES, AttentionConfig
from t2t.nn.attention.einsum import HIDDEN
from t2t.nn.attention.layer import Projections
from t2t.nn.attention.request import blank
from t2t.nn.aux import Aux
from t2t.nn.dropout import dropout
from t2t.nn.mixers import BuildOptions, Capabilities, Context, Mixer, MixerConfig, Needs, TableConfig
from t2t.nn.norms import RMSNorm
from t2t.nn.relative import RelativeBias
from t2t.types import Array as AnyArray


@dataclass(frozen=True, kw_only=True)
class TransientGlobalConfig(AttentionConfig):
    """Transient-global attention; `StackConfig.global_block` selects it.

    It has a window and relative positions, and computes its logits without a backend: `backend` and `block` have no effect.

    Args:
        global_block: number of tokens in a block.

    Raises:
        UserError: another option does not suit it. The message names the option of the encoder's stack.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(bidirectional=True, packing=True)
    global_block: Length

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, found, needed in (
            ("positions", self.positions, "relative"),
            ("num_kv_heads", self.key_heads, self.num_heads),
            ("qk_norm", self.qk_norm is not None, False),
            ("attention_softcap", self.softcap, None),
            ("attention_sinks", self.sinks, False),
            ("sparse", self.sparse, None),
            ("exact_window", self.exact_window, False),
        ):
            if found != needed:
                raise UserError(
                    f"model.encoder.{name} is {found!r}, and model.encoder.global_block is {self.global_block}: attention to sums of blocks does not"
                    f" support it. Nearest: {needed}."
                )
        if self.window is None or self.window < 2:
            raise UserError(
                f"model.encoder.window is {self.window}, and model.encoder.global_block is {self.global_block}: attention to sums of blocks needs a window"
                " of at least 2 tokens. Nearest: 2."
            )

    @property
    def radius(self) -> int:
        """Number of tokens that a token sees on either side."""
        assert self.window is not None
        return self.window // 2

    def build(self, options: BuildOptions) -> TransientGlobal:  # type: ignore[override]  # another mixer with the same projections
        """Return the layer."""
        return TransientGlobal(self, options)

    def tables(self) -> Mapping[str, TableConfig]:
        """Return the tables of relative positions: of tokens, in tokens, and of blocks, in blocks."""
        (table,) = super().tables().values()
        return {"relative_bias": table, "global_bias": table}

    def prepare(self, context: Context, tables: Mapping[str, Any]) -> GlobalInputs:  # type: ignore[override]
        """Return the masks and biases of the two kinds of logits."""
        return global_inputs(
            jnp.asarray(context.segments),
            radius=self.radius,
            size=self.global_block,
            near=tables["relative_bias"],
            far=tables["global_bias"],
        )

    @property
    def keeps_products(self) -> bool:
        """True: nothing is recomputed."""
        return True

    def row_bytes(self, length: int) -> int:
        """Return the bytes of all logits of a row."""
        return LOGIT_BYTES * self.num_heads * length * (3 * (self.radius + 1) + length // self.global_block)

    def check(self, needs: Needs) -> None:
        """Raise UserError in a decoder, and if rows are divided along their length."""
        if not needs.bidirectional:
            raise UserError(
                f"model.decoder.global_block is {self.global_block}: only an encoder sees the sums of all blocks. Nearest: None."
            )
        MixerConfig.check(self, needs)


@dataclass(frozen=True, kw_only=True)
class GlobalInputs:
    """Inputs that the layers of a stack share. N is the number of windows of q tokens in a row, G the number of blocks.

    blocks: block of each token, G if it has none.
    near_mask, near_bias: of the tokens of a window, and of the windows before and after it.
    far_mask, far_bias:   of the blocks.
    """

    blocks: Int[Array, "B L"]
    near_mask: Bool[Array, "B N 1 q k"]
    near_bias: Float[Array, "1 1 H q k"]
    far_mask: Bool[Array, "B N 1 q G"]
    far_bias: Float[Array, "B N H q G"]


class TransientGlobal(Projections, Mixer):
    """Self-attention to near tokens and to the sums of all blocks. Its `Context.inputs` are `GlobalInputs`."""

    def __init__(self, config: TransientGlobalConfig, options: BuildOptions) -> None:
        super().__init__(config, options, options.width)
        self.radius = config.radius
        self.global_norm = RMSNorm(options.width, config.norm_epsilon)

    def __call__(self, x: Float[Array, "B L D"], context: Context) -> tuple[Float[Array, "B L D"], Aux]:
        """Attend over the same rows."""
        inputs = context.inputs
        assert isinstance(inputs, GlobalInputs), "the layer needs the result of TransientGlobalConfig.prepare"
        size, length = self.radius + 1, x.shape[1]
        keys, values = (neighbourhoods(y, size) for y in self.keys_values(x))
        sums = block_sums(x, inputs.blocks, inputs.far_mask.shape[-1])
        far_keys, far_values = self.keys_values(self.global_norm(sums))
        queries = windows(self.queries(x) * self.scale, size)
        near = jnp.einsum("bnqhd,bnkhd->bnhqk", queries, keys, preferred_element_type=jnp.float32)
        far = jnp.einsum("bnqhd,bghd->bnhqg", queries, far_keys, preferred_element_type=jnp.float32)
        logits = jnp.concatenate(
            [
                jnp.where(inputs.near_mask, near + inputs.near_bias, HIDDEN),
                jnp.where(inputs.far_mask, far + inputs.far_bias, HIDDEN),
            ],
            axis=-1,
        )
        weights = dropout(jax.nn.softmax(logits, axis=-1), self.config.dropout, context.keys.next()).astype(x.dtype)
        near, far = weights[..., : 3 * size], weights[..., 3 * size :]
        out = jnp.einsum("bnhqk,bnkhd->bnqhd", near, values, preferred_element_type=jnp.float32)
        out = out + jnp.einsum("bnhqg,bghd->bnqhd", far, far_values, preferred_element_type=jnp.float32)
        out = out.reshape(out.shape[0], -1, *out.shape[3:])[:, :length].astype(x.dtype)
        return self.joined(blank(out, jnp.asarray(context.segments) > 0), x), {}


def global_inputs(
    segments: Int[Array, "B L"], *, radius: int, size: int, near: RelativeBias, far: RelativeBias
) -> GlobalInputs:
    """Return the inputs of rows. size: number of tokens in a block. near, far: tables of relative positions."""
    width = radius + 1
    blocks, owners = blocks_of(segments, size)
    queries, keys = windows(segments, width)[..., None], neighbourhoods(segments, width)[:, :, None]
    distance = jnp.arange(3 * width)[None] - jnp.arange(width, 2 * width)[:, None]
    near_mask = (queries == keys) & (keys > 0) & (jnp.abs(distance) <= radius)
    far_mask = (queries == owners[:, None, None]) & (queries > 0)
    # Blocks of one segment are numbered without gaps, so differences of their numbers are distances.
    count = owners.shape[1]
    table = far.block(0, count, count)[0]
    rows = jnp.take(table, jnp.minimum(windows(blocks, width), count - 1), axis=1)
    return GlobalInputs(
        blocks=blocks,
        near_mask=near_mask[:, :, None],
        near_bias=near.block(width, width, 3 * width)[None],
        far_mask=far_mask[:, :, None],
        far_bias=jnp.moveaxis(rows, 0, 2),
    )


def blocks_of(segments: Int[AnyArray, "B L"], size: int) -> tuple[Int[Array, "B L"], Int[Array, "B G"]]:
    """Return the block of each token, G if it has none, and the segment of each block, 0 if it is not used.

    A row of L tokens has at most L // size blocks, however many segments it has. G is at least 1.
    """
    segments = jnp.asarray(segments)
    length, count = segments.shape[1], max(segments.shape[1] // size, 1)
    index = jnp.arange(length)
    begins = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    place = index - jax.lax.cummax(jnp.where(begins, index, 0), axis=1)
    ends = (segments > 0) & (place % size == size - 1)
    before = jnp.cumsum(ends, axis=1) - ends
    owners = jax.vmap(lambda to, values: jnp.zeros(count, values.dtype).at[to].set(values, mode="drop"))(
        jnp.where(ends, before, count), segments
    )
    # Block `before` is the token's own, unless it is part of a later segment. Then the block before it is, if it is of this segment.
    padded = jnp.pad(owners, ((0, 0), (1, 1)))
    own, last = (jnp.take_along_axis(padded, before + i, axis=1) == segments for i in (1, 0))
    found = jnp.where(own, before, jnp.where(last, before - 1, count))
    return jnp.where(segments > 0, found, count), owners


def block_sums(x: Float[Array, "B L D"], blocks: Int[Array, "B L"], count: int) -> Float[Array, "B G D"]:
    """Return the sum of the vectors of each block, added in float32. Tokens of block `count` are not part of a sum."""
    sums = jax.vmap(lambda rows, ids: jax.ops.segment_sum(rows, ids, num_segments=count))
    return sums(x.astype(jnp.float32), blocks).astype(x.dtype)


def windows(x: Array, size: int) -> Array:
    """Divide the second axis into windows of `size`, [B N size ...]. Zeros fill the last one."""
    padded = jnp.pad(x, ((0, 0), (0, -x.shape[1] % size), *[(0, 0)] * (x.ndim - 2)))
    return padded.reshape(x.shape[0], -1, size, *x.shape[2:])


def neighbourhoods(x: Array, size: int) -> Array:
    """Return each window with the windows before and after it, [B N 3*size ...]. Zeros are before the first window and after the last."""
    parts = jnp.pad(windows(x, size), ((0, 0), (1, 1), *[(0, 0)] * (x.ndim - 1)))
    return jnp.concatenate([parts[:, :-2], parts[:, 1:-1], parts[:, 2:]], axis=2)
