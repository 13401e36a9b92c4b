"""The configuration of attention as a mixer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from flax import nnx

from t2t.limits import Length, NormEpsilon, Range, Rate, Softcap, Width
from t2t.nn.attention import abilities
from t2t.nn.attention.abilities import ABILITIES, Backend, check_abilities
from t2t.nn.attention.inputs import Inputs, of_rows, of_step, on_memory
from t2t.nn.attention.layer import Attention, CrossAttention, Shape
from t2t.nn.masks import Mask
from t2t.nn.mixers import BuildOptions, Capabilities, Context, MixerConfig, Needs, TableConfig
from t2t.nn.norms import NormKind
from t2t.nn.relative import RelativeBias
from t2t.nn.rotary import Rotary

LOGIT_BYTES = 6
"""Bytes that attention takes for a head, a query and a key: its float32 logits, and a part of them again (compiled for CPUs: 1.3 to 1.6 times the logits)."""


@dataclass(frozen=True, kw_only=True)
class RelativeBiasConfig(TableConfig):
    """A table of T5's relative positions, see `t2t.nn.relative.RelativeBias`."""

    num_heads: int
    buckets: int
    max_distance: int

    def build(self, options: BuildOptions) -> nnx.Module:
        """Return the table."""
        return RelativeBias(
            self.num_heads,
            buckets=self.buckets,
            max_distance=self.max_distance,
            bidirectional=options.bidirectional,
            init=options.kernel_init(options.width),
        )


@dataclass(frozen=True, kw_only=True)
class AttentionConfig(MixerConfig):
    """Multi-head softmax attention.

    Args:
        num_heads: of queries.
        head_dim: width of a head.
        num_kv_heads: heads of keys and values; None for as many as `num_heads`.
        scaled: logits divided by sqrt(head_dim). T5 draws its queries' kernel that much smaller instead.
        biases: on the matrix products.
        window: tokens that a token sees, itself included; None for all. Where tokens see both ways, those at most window // 2 places away.
        softcap: logits l become softcap * tanh(l / softcap) (Gemma 2); None for logits as they are.
        qk_norm: kind of norm over each head's query and key; None for none. Not in cross attention.
        norm_epsilon: of that norm.
        positions: "relative" (T5's learned bias), "rotary", or "none" of attention's own.
        buckets: of relative positions.
        max_distance: tokens from which on all relative positions are one bucket.
        relative_per_layer: each layer has relative positions of its own.
        rotary: how fast rotary positions turn.
        backend: see `t2t.nn.attention.attention`.
        block: of the backend.
        dropout: rate on attention weights.
    """

    name: ClassVar[str] = "attention"
    capabilities: ClassVar[Capabilities] = Capabilities(
        bidirectional=True, packing=True, prefix=True, decoding=True, context=True
    )
    num_heads: Width
    head_dim: Width
    num_kv_heads: Width | None = None
    scaled: bool = True
    biases: bool = False
    window: Length | None = None
    softcap: Softcap | None = None
    qk_norm: NormKind | None = None
    norm_epsilon: NormEpsilon = 1e-6
    positions: Literal["relative", "rotary", "none"] = "none"
    buckets: Annotated[int, Range(4, 2**16)] = 32
    max_distance: Length = 128
    relative_per_layer: bool = False
    rotary: Rotary = Rotary()
    backend: Backend = "einsum"
    block: Length = 256
    dropout: Rate = 0.0

    def build(self, options: BuildOptions) -> Attention:
        """Return attention of tokens among themselves."""
        return Attention(self._shape(), options)

    def build_cross(self, options: BuildOptions) -> CrossAttention:
        """Return attention on an encoder's output. It has neither positions nor a window."""
        return CrossAttention(replace(self._shape(), qk_norm=None), options)

    def tables(self) -> Mapping[str, TableConfig]:
        """Return the table of relative positions, where there is one."""
        if self.positions != "relative":
            return {}
        return {
            "relative_bias": RelativeBiasConfig(
                num_heads=self.num_heads, buckets=self.buckets, max_distance=self.max_distance
            )
        }

    @property
    def tables_per_layer(self) -> bool:
        """Whether each layer has relative positions of its own."""
        return self.relative_per_layer

    def prepare(self, context: Context, tables: Mapping[str, Any]) -> Inputs:
        """Return masks, relative biases and rotary angles."""
        angles = None
        if self.positions == "rotary":
            assert context.positions is not None, "rotary positions need the tokens' positions"
            angles = self.rotary.angles(context.positions, self.head_dim)
        make = of_rows if context.index is None else of_step
        by_block = ABILITIES[self.backend].bias == "blocks"
        return make(context, window=self.window, relative=tables.get("relative_bias"), by_block=by_block, angles=angles)

    def prepare_cross(self, context: Context) -> Mask:
        """Return the mask on the encoder's tokens."""
        return on_memory(context)

    @property
    def keeps_products(self) -> bool:
        """False for "chunked", whose blocks' products are what it is there not to keep."""
        return self.backend != "chunked"

    def row_bytes(self, length: int) -> int:
        """Return the bytes of all logits of a row, where the backend holds them all."""
        return LOGIT_BYTES * self.num_heads * length**2 if self.backend == "einsum" else 0

    def check(self, needs: Needs) -> None:
        """Raise UserError where the backend cannot do what is needed: its table is `ABILITIES`."""
        check_abilities(
            self.backend,
            abilities.Needs(
                dtype=needs.dtype,
                dropout=self.dropout,
                bias=self.positions == "relative",
                window=self.window,
                prefix=needs.prefix,
                softcap=self.softcap,
                context=needs.context,
                block=self.block,
            ),
        )

    def _shape(self) -> Shape:
        return Shape(
            num_heads=self.num_heads,
            num_kv_heads=self.num_heads if self.num_kv_heads is None else self.num_kv_heads,
            head_dim=self.head_dim,
            scaled=self.scaled,
            biases=self.biases,
            backend=self.backend,
            block=self.block,
            dropout=self.dropout,
            softcap=self.softcap,
            qk_norm=self.qk_norm,
            norm_epsilon=self.norm_epsilon,
        )
