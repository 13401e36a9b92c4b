"""Configuration of attention as a mixer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from flax import nnx

from t2t.errors import UserError
from t2t.limits import Length, LogitScale, NormEpsilon, Range, Rate, Softcap, Width
from t2t.nn.attention import abilities
from t2t.nn.attention.abilities import ABILITIES, Backend, check_abilities
from t2t.nn.attention.inputs import Inputs, memory_mask, row_inputs, step_inputs
from t2t.nn.attention.layer import Attention, CrossAttention
from t2t.nn.disentangled import Disentangled, RelativeVectors
from t2t.nn.masks import Mask
from t2t.nn.mixers import BuildOptions, Capabilities, Context, MixerConfig, Needs, TableConfig
from t2t.nn.norms import NormKind
from t2t.nn.relative import RelativeBias
from t2t.nn.rotary import Rotary
from t2t.nn.sparse import Sparse

LOGIT_BYTES = 6
"""Bytes of memory for each head, query and key: the float32 logits plus a copy of part of them. Compiled for CPUs, it is 1.3 to 1.6 times the logits."""
TERM_BYTES = 12
"""Bytes of memory for each head, query and key of a term of disentangled positions: products with the vectors of all distances, and the logits from them."""


@dataclass(frozen=True, kw_only=True)
class RelativeBiasConfig(TableConfig):
    """Table of T5's relative positions, see `t2t.nn.relative.RelativeBias`."""

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
class RelativeVectorsConfig(TableConfig):
    """Table of the relative positions of disentangled attention, see `t2t.nn.disentangled.RelativeVectors`."""

    rows: int
    epsilon: float | None

    def build(self, options: BuildOptions) -> nnx.Module:
        """Return the table."""
        init = options.kernel_init(options.width)
        return RelativeVectors(self.rows, options.width, epsilon=self.epsilon, init=init)


@dataclass(frozen=True, kw_only=True)
class AttentionConfig(MixerConfig):
    """Multi-head softmax attention.

    Args:
        num_heads: number of query heads.
        head_dim: width of a head.
        num_kv_heads: number of key and value heads; fewer than `num_heads` is grouped-query attention (Ainslie et al. 2023). None means the same as
            `num_heads`.
        scaled: divide logits by sqrt(head_dim). T5 does not: it initializes the query kernel with smaller values instead.
        scale: factor on logits. None means 1 / sqrt(head_dim), 1 without `scaled`, or 1 / sqrt((1 + terms) * head_dim) with disentangled positions.
        biases: add a bias to the matrix products.
        output_bias: add a bias to the last product, which merges the heads. None means the same as `biases`.
        gate: multiply the output of the heads by the sigmoid of a projection of the queries' input, before the last product (Qiu et al. 2025; Qwen3-Next).
            Cross attention does not use it.
        window: size of the sliding window in tokens, including the token itself. None means no window. In bidirectional attention, a token sees tokens up to
            window // 2 positions away.
        exact_window: in bidirectional attention, a token sees tokens up to (window - 1) // 2 positions before it and window // 2 after it (T5Gemma 2).
        sparse: sparsity pattern, see `t2t.nn.sparse.Sparse`. None means that a token sees all earlier ones. Decoders only.
        softcap: soft bound on logits: a logit l becomes softcap * tanh(l / softcap) (Gemma 2). None means no bound.
        sinks: give each head a learned logit of one more key, whose value is 0 (gpt-oss; a learned form of the sinks of Xiao et al. 2023). Cross attention does
            not have them.
        qk_norm: kind of norm of each head's queries and keys, applied before they rotate (Henry et al. 2020). None means no norm. Cross
            attention does not use it.
        qk_norm_whole: apply that norm to all heads of the queries, and of the keys, at once (OLMo 2).
        sub_norm: kind of a norm of all heads together, before the last product (BitNet). None means that there is none.
        norm_epsilon: epsilon of that norm, and of the norm of disentangled positions.
        positions: "relative" (T5's learned bias), "rotary", "disentangled" (DeBERTa), or "none" if attention itself uses no positions.
        buckets: number of buckets of relative positions.
        max_distance: distance in tokens from which all relative positions share the last bucket.
        relative_per_layer: give each layer its own relative positions.
        rotary: frequencies of rotary positions.
        disentangled: vectors of disentangled positions.
        position_dropout: dropout rate of those vectors.
        backend: backend that computes attention, see `t2t.nn.attention.attention`.
        block: block size of the backend.
        dropout: dropout rate of attention weights.
    """

    name: ClassVar[str] = "attention"
    capabilities: ClassVar[Capabilities] = Capabilities(
        bidirectional=True, packing=True, prefix=True, decoding=True, context=True
    )
    num_heads: Width
    head_dim: Width
    num_kv_heads: Width | None = None
    scaled: bool = True
    scale: LogitScale | None = None
    biases: bool = False
    output_bias: bool | None = None
    gate: bool = False
    window: Length | None = None
    exact_window: bool = False
    sparse: Sparse | None = None
    softcap: Softcap | None = None
    sinks: bool = False
    qk_norm: NormKind | None = None
    qk_norm_whole: bool = False
    sub_norm: NormKind | None = None
    norm_epsilon: NormEpsilon = 1e-6
    positions: Literal["relative", "rotary", "disentangled", "none"] = "none"
    buckets: Annotated[int, Range(4, 2**16)] = 32
    max_distance: Length = 128
    relative_per_layer: bool = False
    rotary: Rotary = Rotary()
    disentangled: Disentangled = Disentangled()
    position_dropout: Rate = 0.0
    backend: Backend = "einsum"
    block: Length = 256
    dropout: Rate = 0.0

    @property
    def key_heads(self) -> int:
        """Number of key and value heads."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def rotary_dim(self) -> int:
        """Width of the part of a head that rotary positions read."""
        return self.head_dim

    @property
    def logit_scale(self) -> float:
        """Factor on logits."""
        products = 1 + self.disentangled.terms if self.positions == "disentangled" else 1
        default = (products * self.head_dim) ** -0.5 if self.scaled else 1.0
        return default if self.scale is None else self.scale

    def build(self, options: BuildOptions) -> Attention:
        """Return the self-attention layer."""
        return Attention(self, options)

    def build_cross(self, options: BuildOptions) -> CrossAttention:
        """Return the cross-attention layer. It uses neither positions nor a window nor a gate."""
        return CrossAttention(replace(self, qk_norm=None, sinks=False, gate=False), options)

    def tables(self) -> Mapping[str, TableConfig]:
        """Return the table of relative positions, or {} if there is none."""
        if self.positions == "disentangled":
            epsilon = self.norm_epsilon if self.disentangled.norm else None
            return {"relative_vectors": RelativeVectorsConfig(rows=2 * self.disentangled.span, epsilon=epsilon)}
        if self.positions != "relative":
            return {}
        return {
            "relative_bias": RelativeBiasConfig(
                num_heads=self.num_heads, buckets=self.buckets, max_distance=self.max_distance
            )
        }

    @property
    def tables_per_layer(self) -> bool:
        """Whether each layer has its own relative positions."""
        return self.relative_per_layer and self.positions == "relative"

    def prepare(self, context: Context, tables: Mapping[str, Any]) -> Inputs:
        """Return masks, relative biases, vectors of relative positions and rotary angles."""
        angles = None
        if self.positions == "rotary":
            assert context.positions is not None, "rotary positions need the tokens' positions"
            angles = self.rotary.angles(context.positions, self.rotary_dim)
        relative = tables.get("relative_bias")
        if context.index is not None:
            return step_inputs(context, window=self.window, sparse=self.sparse, relative=relative, angles=angles)
        by_block = ABILITIES[self.backend].bias == "blocks"
        inputs = row_inputs(
            context,
            window=self.window,
            exact_window=self.exact_window,
            sparse=self.sparse,
            relative=relative,
            by_block=by_block,
            angles=angles,
        )
        vectors = tables.get("relative_vectors")
        return inputs if vectors is None else replace(inputs, vectors=vectors())

    def prepare_cross(self, context: Context) -> Mask:
        """Return the mask over the encoder's tokens."""
        return memory_mask(context)

    @property
    def keeps_products(self) -> bool:
        """False for "chunked", which exists to not keep the products of its blocks."""
        return self.backend != "chunked"

    def row_bytes(self, length: int) -> int:
        """Return the bytes of all logits of a row, if the backend holds them all in memory."""
        if self.backend != "einsum":
            return 0
        terms = self.disentangled.terms if self.positions == "disentangled" else 0
        return (LOGIT_BYTES + TERM_BYTES * terms) * self.num_heads * length**2

    def check(self, needs: Needs) -> None:
        """Raise UserError if the positions or the backend do not support what is needed, see `ABILITIES`."""
        if needs.decoding and self.positions == "disentangled":
            raise UserError(
                'model.decoder.positions is "disentangled", which supports no step-by-step decoding. Nearest: relative, rotary.'
            )
        if self.sparse is not None:
            for needed, why in (
                (needs.bidirectional, "the tokens of an encoder see later tokens. Nearest: window"),
                (needs.prefix, "it cannot be combined with a prefix mask (--model.mask prefix). Nearest: causal"),
                (needs.context > 1, f"rows cannot be divided (--mesh.context {needs.context}). Nearest: 1"),
                (self.window is not None, f"the layer has a window of {self.window} too. Nearest: one of the two"),
            ):
                if needed:
                    raise UserError(f"a layer has a sparsity pattern (LayerOptions.sparse), and {why}.")
        check_abilities(self.backend, self._backend_needs(needs))

    def _backend_needs(self, needs: Needs) -> abilities.Needs:
        """Return what the backend must support."""
        return abilities.Needs(
            dtype=needs.dtype,
            dropout=self.dropout,
            bias=self.positions in ("relative", "disentangled"),
            window=self.window,
            sparse=self.sparse is not None,
            prefix=needs.prefix,
            softcap=self.softcap,
            sinks=self.sinks,
            context=needs.context,
            block=self.block,
        )
