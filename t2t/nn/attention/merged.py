"""Self-attention and cross attention as one: a softmax over a row's own tokens and the encoder's (T5Gemma 2; Zhang et al. 2025, https://arxiv.org/abs/2512.14856)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from t2t.errors import UserError
from t2t.nn.attention import abilities
from t2t.nn.attention.config import AttentionConfig
from t2t.nn.attention.inputs import Inputs, memory_mask
from t2t.nn.attention.layer import Attention, EncoderKeys
from t2t.nn.attention.step import Shared
from t2t.nn.masks import Mask
from t2t.nn.mixers import BuildOptions, Context, Needs


class MergedAttention(Attention, EncoderKeys):
    """Attention to the row's own tokens and to the encoder's output, with the same projections and norms.

    Keys of the encoder's output have no positions, and no window hides them.
    """

    def _rows(
        self, x: Float[Array, "B L D"], context: Context, keys: jax.Array, values: jax.Array
    ) -> Float[Array, "B L D"]:
        encoder_keys, encoder_values = context.read
        keys = jnp.concatenate([keys, encoder_keys], axis=1)
        return super()._rows(x, context, keys, jnp.concatenate([values, encoder_values], axis=1))

    def _shared(self, context: Context, prompt: Any) -> list[Shared]:
        encoder = Shared(context.read["key"], context.read["value"], context.cross_inputs)
        return [*super()._shared(context, prompt), encoder]


@dataclass(frozen=True, kw_only=True)
class MergedAttentionConfig(AttentionConfig):
    """Attention whose keys are the row's own tokens and the encoder's output. The options are those of `AttentionConfig`, without relative positions."""

    reads_memory: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.positions == "relative":
            raise UserError(
                "model.merged_attention is True, but model.decoder.positions is 'relative': there are no relative positions between the tokens of"
                " decoder and encoder. Nearest: rotary, none."
            )

    def build(self, options: BuildOptions) -> MergedAttention:
        """Return the layer. The encoder's output has the width of the stack."""
        return MergedAttention(self, options)

    def prepare(self, context: Context, tables: Mapping[str, Any]) -> Inputs:
        """Return masks and rotary angles. The mask of whole rows includes the encoder's tokens."""
        inputs = super().prepare(context, tables)
        if context.index is not None:
            return inputs
        return dataclasses.replace(inputs, mask=dataclasses.replace(inputs.mask, memory=context.memory_segments))

    def prepare_cross(self, context: Context) -> Mask:
        """Return the mask over the encoder's tokens, in a step with a row for each query."""
        mask = memory_mask(context)
        if context.index is None:
            return mask
        times = context.index.shape[0] // mask.keys.shape[0]
        return dataclasses.replace(
            mask, queries=jnp.repeat(mask.queries, times, axis=0), keys=jnp.repeat(mask.keys, times, axis=0)
        )

    def row_bytes(self, length: int) -> int:
        """Return the bytes of all logits of a row, if the encoder's row is as long."""
        return 2 * super().row_bytes(length)

    def _backend_needs(self, needs: Needs) -> abilities.Needs:
        return dataclasses.replace(super()._backend_needs(needs), memory=True)
