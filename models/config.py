"""What a transformer is made of, as data: the choices in which T5, GPT, BERT and LLaMA differ."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal, get_args

from t2t.errors import UserError, nearest
from t2t.limits import Configuration, Depth, Deviation, FewOrZero, Length, NormEpsilon, Range, Rate, Softcap, Width
from t2t.nn.attention import Backend, portable
from t2t.nn.attention.config import AttentionConfig
from t2t.nn.feed_forward import FeedForwardConfig
from t2t.nn.initializers import Initializer, Normal, TruncatedNormal, fan_in
from t2t.nn.layers import LayerConfig, NormConfig, NormPlace
from t2t.nn.mixers import MixerConfig, Needs
from t2t.nn.mlp import Activation, MLPConfig
from t2t.nn.model import ModelConfig
from t2t.nn.norms import NormKind
from t2t.nn.quantized import Quantization
from t2t.nn.rotary import Rotary

Positions = Literal["relative", "learned", "rotary", "none"]
InitKind = Literal["fan_in", "normal", "truncated_normal"]
Remat = Literal["none", "full", "dots", "dots_no_batch"]
Dtype = Literal["float32", "bfloat16"]


def one_of(field: str, value: str, choices: object) -> None:
    """Raise UserError unless `value` is one of a Literal's."""
    valid = get_args(choices)
    if value not in valid:
        raise UserError(f"unknown {field} {value!r} (model.{field}).{nearest(str(value), valid)}")


def both_ways(side: str, stack: StackConfig) -> None:
    """Raise UserError where a stack that looks both ways, an encoder's, has an odd number of buckets.

    Half of T5's buckets are for the tokens before one, half for those behind it (Raffel et al. 2020, section 2.1).
    """
    if stack.positions == "relative" and stack.buckets % 2:
        raise UserError(
            f"model.{side}.buckets is {stack.buckets}; half of them are for each direction, so their number is even."
            f" Nearest: {stack.buckets + 1}."
        )


@dataclass(frozen=True, kw_only=True)
class LayerOptions(Configuration):
    """How the layers at one place of a stack's pattern differ from the options of the stack. None: as the stack says.

    Args:
        window: as the option of `StackConfig`. A stack whose layers differ has None, and a window at the places that have one.
        positions: as the option of `StackConfig`: "relative", "rotary" or "none"; learned positions are the whole stack's.
        rotary: as the option of `StackConfig`.
        num_heads: as the option of `StackConfig`.
        num_kv_heads: as the option of `StackConfig`.
        head_dim: as the option of `StackConfig`.
        d_ff: as the option of `StackConfig`.
        mixer: another kind of mixer in place of attention.
        feed_forward: another kind of feed-forward layer.
    """

    window: Length | None = None
    positions: Positions | None = None
    rotary: Rotary | None = None
    num_heads: Width | None = None
    num_kv_heads: Width | None = None
    head_dim: Width | None = None
    d_ff: Width | None = None
    mixer: MixerConfig | None = None
    feed_forward: FeedForwardConfig | None = None

    def applied(self, stack: StackConfig) -> StackConfig:
        """Return the options of a stack all of whose layers are like this one."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        options = {field.name for field in fields(StackConfig)}
        changes = {name: value for name, value in given.items() if value is not None and name in options}
        return replace(stack, pattern=(), **changes)


@dataclass(frozen=True, kw_only=True)
class StackConfig(Configuration):
    """A stack of layers: all alike, or a pattern of layers that is repeated.

    Args:
        num_layers: depth.
        d_model: width.
        num_heads: attention heads.
        d_ff: inner width of the feed-forward networks.
        head_dim: width of a head; None for d_model / num_heads.
        num_kv_heads: heads of keys and values; None for as many as `num_heads`.
        activation: of the feed-forward networks; "gelu" is exact, "gelu_tanh" the approximation of GPT and T5 v1.1.
        gated: feed-forward networks multiply two branches (T5 v1.1, LLaMA).
        biases: on every matrix product of the blocks.
        attention_biases: on attention's matrix products; None for as `biases` says.
        groups: blocks with parameters of their own, each applied num_layers / groups times in a row (ALBERT); None for one a layer.
        norm: "rms" (T5, LLaMA) or "layer" (GPT, BERT).
        norm_epsilon: added to the mean square that a norm divides by the root of.
        norm_place: "pre" normalises what enters a sublayer, "post" the sum after it (GPT-1, BERT), "sandwich" what enters a sublayer and what leaves it
            before the sum (Gemma 2).
        final_norm: one more norm after the last block.
        positions: "relative" (T5: `buckets` up to `max_distance`), "learned" (`max_length` of them, added to the embeddings), "rotary" (LLaMA, see
            `rotary`) or "none".
        buckets: of relative positions; an encoder, which looks both ways, has an even number.
        max_distance: tokens from which on all relative positions are one bucket.
        relative_per_layer: each layer has relative positions of its own (umT5); otherwise all layers share them (T5).
        rotary: how fast rotary positions turn.
        position_offset: rows of the table of learned positions before that of position 0, which nothing reads (RoBERTa: 2).
        window: tokens that a token of a decoder sees, itself included; None for all before it (Mistral). A token of an encoder sees those at most window // 2
            places away on either side (ModernBERT).
        qk_norm: a norm, of the kind of the others, over each head's queries and keys (Gemma 3, Qwen 3).
        attention_softcap: attention logits l become attention_softcap * tanh(l / attention_softcap) (Gemma 2); None for logits as they are.
        max_length: learned positions there are; with rotary ones what training had, which limits nothing.
        scaled_attention: logits divided by sqrt(head_dim). T5 draws its queries' kernel that much smaller instead.
        mlp_dropout: dropout also within the feed-forward networks, as T5 has it.
        final_dropout: dropout also after the stack, as T5 has it.
        init: of kernels: "fan_in" (T5), or "normal" (GPT) or "truncated_normal" (BERT) of deviation `init_std`.
        init_std: deviation of kernels at first, where `init` is not "fan_in".
        init_residual: kernels that write to the residual stream are drawn smaller by sqrt(2 * num_layers) (GPT-2).
        pattern: how the layers at each place of a repeated pattern differ from the options above; () for layers that are all alike. The pattern is repeated
            from the first layer on; the last repeat may be a part of it. Set it in a recipe.
    """

    num_layers: Depth
    d_model: Width
    num_heads: Width
    d_ff: Width
    head_dim: Width | None = None
    num_kv_heads: Width | None = None
    activation: Activation = "gelu_tanh"
    gated: bool = False
    biases: bool = False
    attention_biases: bool | None = None
    groups: Depth | None = None
    norm: NormKind = "layer"
    norm_epsilon: NormEpsilon = 1e-6
    norm_place: NormPlace = "pre"
    final_norm: bool = True
    positions: Positions = "learned"
    buckets: Annotated[int, Range(4, 2**16)] = 32
    max_distance: Length = 128
    relative_per_layer: bool = False
    rotary: Rotary = Rotary()
    position_offset: FewOrZero = 0
    window: Length | None = None
    qk_norm: bool = False
    attention_softcap: Softcap | None = None
    max_length: Length = 512
    scaled_attention: bool = True
    mlp_dropout: bool = False
    final_dropout: bool = False
    init: InitKind = "normal"
    init_std: Deviation = 0.02
    init_residual: bool = False
    pattern: tuple[LayerOptions, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, choices in (
            ("activation", Activation),
            ("norm", NormKind),
            ("norm_place", NormPlace),
            ("positions", Positions),
            ("init", InitKind),
        ):
            one_of(field, getattr(self, field), choices)
        if self.head_dim is None and self.d_model % self.num_heads:
            near = [n for n in range(1, self.d_model + 1) if self.d_model % n == 0]
            best = min(near, key=lambda n: abs(n - self.num_heads))
            raise UserError(
                f"model.num_heads is {self.num_heads}, which does not divide model.d_model = {self.d_model} (and head_dim is not given). Nearest: {best}."
            )
        if self.num_heads % self.key_heads:
            raise UserError(
                f"model.num_kv_heads is {self.num_kv_heads}, which does not divide model.num_heads = {self.num_heads}"
            )
        if self.groups is not None and self.num_layers % self.groups:
            raise UserError(
                f"model.groups is {self.groups}, which does not divide model.num_layers = {self.num_layers}"
            )
        if self.positions == "rotary":
            self.rotary.rotated_size(self.head_size)
        if self.positions == "relative" and self.max_distance <= self.buckets // 2:
            raise UserError(
                f"model.max_distance is {self.max_distance}; it must be more than half of model.buckets = {self.buckets}."
                f" Nearest: {self.buckets // 2 + 1}."
            )
        if self.pattern and self.groups is not None:
            raise UserError(
                f"model.groups is {self.groups} beside a pattern of {len(self.pattern)} layers; groups are of layers that are all alike. Nearest: None."
            )
        for place, layer in enumerate(self.pattern):
            if layer.positions == "learned" != self.positions:
                raise UserError(
                    f"model.pattern[{place}].positions is 'learned', and model.positions {self.positions!r}; learned positions are the whole stack's."
                    " Nearest: rotary, relative, none."
                )
            try:
                layer.applied(self)
            except UserError as error:
                raise UserError(f"model.pattern[{place}]: {error}") from None

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.num_heads if self.head_dim is None else self.head_dim

    @property
    def key_heads(self) -> int:
        """Number of heads of keys and values."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def blocks(self) -> int:
        """Number of blocks with parameters of their own."""
        return self.num_layers if self.groups is None else self.groups

    @property
    def limit(self) -> int | None:
        """Longest sequence that has positions, or None where there is no limit."""
        return self.max_length if self.positions == "learned" else None

    def kernel_init(self, inputs: int, *, shrink: float = 1.0, residual: bool = False) -> Initializer:
        """Return the initializer of a kernel.

        shrink:   factor on the deviation under "fan_in", for T5's queries.
        residual: the kernel writes to the residual stream.
        """
        if self.init == "fan_in":
            return TruncatedNormal(fan_in(inputs).std * shrink)
        std = self.init_std / (2 * self.num_layers) ** 0.5 if residual and self.init_residual else self.init_std
        return Normal(std) if self.init == "normal" else TruncatedNormal(std, exact=False)


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(ModelConfig):
    """What encoders, decoders and encoder-decoders have in common.

    Args:
        dtype: of computation; parameters, norms, softmax and logits are float32.
        quantization: of the matrix products with the kernels of the blocks, in training, evaluation and decoding alike: "none", "int8" or "fp8", see
            `t2t.nn.quantized.quantized_matmul`. Embeddings, norms, attention logits and heads stay as they are; parameters are float32.
        dropout: rate after embeddings and sublayers.
        attention_dropout: rate on attention weights; None for the same as `dropout`.
        attention: how attention is computed, see `t2t.nn.attention.attention`. Steps of decoding have one query and always take "einsum".
        attention_block: queries that "chunked" attention takes at a time; "splash" and "flash" have blocks of at most as many queries and keys.
        remat: what the backward pass computes again: "none"; all but what enters each layer ("full"); all but matrix products ("dots"); all
            but those without a batch axis, which leaves out attention logits ("dots_no_batch").
        unroll: layers that a round of the loop over depth goes through: more of them copy less between rounds, and take longer to compile.
        tied: logits come from the embedding table, not from a kernel of their own.
        embedding_size: width of the embeddings, brought to the stacks' by a matrix (ALBERT); None for the stacks' own.
        scaled_head: logits are divided by sqrt(d_model) (T5 v1.0).
        final_softcap: logits l become final_softcap * tanh(l / final_softcap) (Gemma 2); None for logits as they are.
        embedding_scale: what token embeddings are multiplied by (Gemma: sqrt(d_model)).
        embedding_std: deviation of the token embeddings at first.
        position_std: deviation of learned positions at first.
    """

    dtype: Dtype = "float32"
    quantization: Quantization = "none"
    dropout: Rate = 0.0
    attention_dropout: Rate | None = None
    attention: Backend = "einsum"
    attention_block: Length = 256
    remat: Remat = "none"
    unroll: Depth = 1
    tied: bool = True
    scaled_head: bool = False
    final_softcap: Softcap | None = None
    embedding_scale: Annotated[float, Range(1e-6, 1e6)] = 1.0
    embedding_size: Width | None = None
    embedding_std: Deviation = 0.02
    position_std: Deviation = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, choices in (
            ("dtype", Dtype),
            ("quantization", Quantization),
            ("attention", Backend),
            ("remat", Remat),
        ):
            one_of(field, getattr(self, field), choices)
        deepest = max(stack.num_layers for stack in self.stacks)
        if self.unroll > deepest:
            raise UserError(
                f"model.unroll is {self.unroll}; the model's stacks have at most {deepest} layers. Nearest: {deepest}."
            )
        for mixer, needs in self._mixers():
            mixer.check(needs)

    def check_run(self, *, packing: bool, context: int) -> None:
        """Raise UserError where a layer cannot do what a run asks of it; see `t2t.nn.model.ModelConfig.check_run`."""
        for mixer, needs in self._mixers():
            mixer.check(replace(needs, packing=packing, context=context))

    def portable(self) -> TransformerConfig:
        """Return the same with "chunked" attention in place of a kernel."""
        return replace(self, attention=portable(self.attention))

    @property
    def lighter(self) -> dict[str, Any]:
        """Attention that does not hold all logits at a time."""
        return {"attention": "chunked"} if self.attention == "einsum" else {}

    def row_bytes(self, length: int) -> int:
        """Return the bytes of the mixer that takes most."""
        return max(mixer.row_bytes(length) for mixer, _ in self._mixers())

    def pattern_of(self, stack: StackConfig, *, cross: bool = False) -> tuple[LayerConfig, ...]:
        """Return the layers of a stack's pattern: what its options, which describe a layer, say. cross: with cross attention."""
        if not stack.pattern:
            return (self._layer(stack, LayerOptions(), cross=cross),)
        # A stack of fewer layers than the pattern has its first ones.
        places = stack.pattern[: stack.num_layers]
        return tuple(self._layer(place.applied(stack), place, cross=cross) for place in places)

    def _layer(self, stack: StackConfig, place: LayerOptions, *, cross: bool) -> LayerConfig:
        attention = AttentionConfig(
            num_heads=stack.num_heads,
            head_dim=stack.head_size,
            num_kv_heads=stack.num_kv_heads,
            scaled=stack.scaled_attention,
            biases=stack.biases if stack.attention_biases is None else stack.attention_biases,
            window=stack.window,
            softcap=stack.attention_softcap,
            qk_norm=stack.norm if stack.qk_norm else None,
            norm_epsilon=stack.norm_epsilon,
            positions="none" if stack.positions == "learned" else stack.positions,
            buckets=stack.buckets,
            max_distance=stack.max_distance,
            relative_per_layer=stack.relative_per_layer,
            rotary=stack.rotary,
            backend=self.attention,
            block=self.attention_block,
            dropout=self.attention_rate,
        )
        mlp = MLPConfig(inner=stack.d_ff, activation=stack.activation, gated=stack.gated, biases=stack.biases)
        return LayerConfig(
            mixer=attention if place.mixer is None else place.mixer,
            feed_forward=mlp if place.feed_forward is None else place.feed_forward,
            norms=NormConfig(kind=stack.norm, epsilon=stack.norm_epsilon, place=stack.norm_place),
            cross=attention if cross else None,
            dropout=self.dropout,
        )

    def _mixers(self) -> Iterator[tuple[MixerConfig, Needs]]:
        """Yield the mixers of all stacks with what the model asks of them."""
        for field in fields(self):
            stack = getattr(self, field.name)
            if isinstance(stack, StackConfig):
                for layer in self.pattern_of(stack):
                    yield layer.mixer, self._needs(field.name)

    def _needs(self, side: str) -> Needs:
        """Return what the model asks of the mixers of one of its stacks."""
        decoding = side == "decoder"
        return Needs(dtype=self.dtype, bidirectional=not decoding, decoding=decoding)

    @property
    @abc.abstractmethod
    def stacks(self) -> tuple[StackConfig, ...]:
        """The stacks of blocks."""

    @property
    def attention_rate(self) -> float:
        """Rate of dropout on attention weights."""
        return self.dropout if self.attention_dropout is None else self.attention_dropout

    @property
    def max_length(self) -> int | None:
        """Longest sequence the positions allow, in tokens; None where there is no limit."""
        limits = [stack.limit for stack in self.stacks if stack.limit is not None]
        return min(limits, default=None)
