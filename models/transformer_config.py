"""Options that every transformer model shares: how it computes, its embeddings and its logits."""

from __future__ import annotations

import abc
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal

from t2t.errors import UserError
from t2t.limits import Depth, Deviation, Length, Range, Rate, Softcap, Width
from t2t.models.checks import one_of
from t2t.models.config import LayerOptions, StackConfig
from t2t.nn.attention import Backend, portable
from t2t.nn.attention.config import AttentionConfig
from t2t.nn.attention.latent import LatentAttentionConfig
from t2t.nn.attention.merged import MergedAttentionConfig
from t2t.nn.attention.transient_global import TransientGlobalConfig
from t2t.nn.capabilities import Side
from t2t.nn.feed_forward import FeedForwardConfig
from t2t.nn.layers import LayerConfig, NormConfig
from t2t.nn.mixers import MixerConfig, Needs
from t2t.nn.mlp import MLPConfig
from t2t.nn.model import ModelConfig
from t2t.nn.moe.layer import MoEConfig
from t2t.nn.quantized import Quantization

Remat = Literal["none", "full", "dots", "dots_no_batch"]
Dtype = Literal["float32", "bfloat16"]
EmbeddingScale = Annotated[float, Range(1e-6, 1e6)]


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(ModelConfig):
    """Options that encoders, decoders and encoder-decoders share.

    Args:
        dtype: type of the computation. Parameters, norms, softmax and logits are always float32.
        quantization: type of the matrix products with the kernels of the layers, in training, evaluation and decoding: "none", "int8", "fp8" (see
            `t2t.nn.quantized.quantized_matmul`) or "ternary" (BitNet b1.58, see `t2t.nn.ternary`), which is another model than the same parameters in floats. Embeddings, norms, attention logits and heads are not quantized. Parameters are float32.
        dropout: dropout rate after the embeddings and after each sublayer.
        attention_dropout: dropout rate of attention weights. None means the same as `dropout`.
        attention: backend that computes attention, see `t2t.nn.attention.attention`. Decoding steps have one query and always use "einsum".
        attention_block: number of queries that "chunked" attention processes at a time. For "splash" and "flash", the largest block of queries and keys.
        remat: what the backward pass recomputes to save memory: nothing ("none"); everything except the input of each layer ("full"); everything except matrix
            products ("dots"); everything except matrix products without a batch axis, so attention logits are recomputed too ("dots_no_batch").
        unroll: number of layers in each iteration of the loop over depth. More layers copy less data between iterations, and take longer to compile.
        tied: compute logits with the embedding table instead of a separate kernel.
        embedding_size: width of the embeddings; a matrix projects them to the width of the stack (ALBERT). None means the width of the stack.
        scaled_head: divide the logits by sqrt(d_model) (T5 v1.0).
        final_softcap: soft bound on the logits: a logit l becomes final_softcap * tanh(l / final_softcap) (Gemma 2). None means no bound.
        embedding_scale: factor on the token embeddings (Gemma: sqrt(d_model)).
        embedding_std: standard deviation of the initial token embeddings.
        position_std: standard deviation of the initial learned positions.
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
    embedding_scale: EmbeddingScale = 1.0
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
                f"model.unroll is {self.unroll}; the deepest stack of the model has {deepest} layers. Nearest: {deepest}."
            )
        for layer, needs in self._layers():
            layer.check(needs)

    def check_run(self, *, packing: bool, context: int) -> None:
        """Raise UserError if a layer does not support what the run needs; see `t2t.nn.model.ModelConfig.check_run`."""
        for layer, needs in self._layers():
            layer.check(replace(needs, packing=packing, context=context))

    def portable(self) -> TransformerConfig:
        """Return the same configuration, with "chunked" attention instead of a platform-specific kernel."""
        return replace(self, attention=portable(self.attention))

    @property
    def lighter(self) -> dict[str, Any]:
        """Attention that does not hold all logits in memory at once."""
        return {"attention": "chunked"} if self.attention == "einsum" else {}

    def row_bytes(self, length: int) -> int:
        """Return the bytes of the mixer that needs the most memory."""
        return max(layer.mixer.row_bytes(length) for layer, _ in self._layers())

    def sent_to_experts(self, lengths: Mapping[Side, int]) -> Mapping[str, float]:
        """Return what the layers with experts send along the mesh axis "expert"; see `t2t.nn.model.ModelConfig.sent_to_experts`."""
        total: Counter[str] = Counter()
        for side, length in lengths.items():
            stack: StackConfig = getattr(self, side)
            first, pattern = self.first_of(stack), self.pattern_of(stack)
            repeated = (pattern[layer % len(pattern)] for layer in range(stack.num_layers - len(first)))
            for layer in (*first, *repeated):
                if layer.feed_forward is not None:
                    total.update(layer.feed_forward.sent_to_experts(length, stack.d_model))  # type: ignore[arg-type]
        return total

    @property
    def merges_attention(self) -> bool:
        """Whether a decoder attends to its own tokens and to an encoder's output in one softmax."""
        return False

    def pattern_of(self, stack: StackConfig, *, cross: bool = False) -> tuple[LayerConfig, ...]:
        """Return the layers of a stack's pattern. cross: with cross attention."""
        # If the stack has fewer layers than the pattern, use the first ones.
        places = stack.places[: stack.num_layers - len(stack.first)]
        return tuple(self._layer(place.applied(stack), place, cross=cross) for place in places)

    def first_of(self, stack: StackConfig, *, cross: bool = False) -> tuple[LayerConfig, ...]:
        """Return the layers of a stack that come before its pattern."""
        return tuple(self._layer(place.applied(stack), place, cross=cross) for place in stack.first)

    def _layer(self, stack: StackConfig, place: LayerOptions, *, cross: bool) -> LayerConfig:
        merged = cross and place.mixer is None and self.merges_attention
        attention = (MergedAttentionConfig if merged else AttentionConfig)(
            num_heads=stack.num_heads,
            head_dim=stack.head_size,
            num_kv_heads=stack.num_kv_heads,
            scaled=stack.scaled_attention,
            scale=stack.attention_scale,
            biases=stack.has_attention_biases,
            output_bias=stack.has_attention_output_bias,
            gate=stack.attention_gate,
            window=stack.window,
            exact_window=stack.exact_window,
            sparse=place.sparse,
            softcap=stack.attention_softcap,
            sinks=stack.attention_sinks,
            qk_norm=stack.norm if stack.qk_norm else None,
            qk_norm_whole=stack.qk_norm_whole,
            sub_norm=stack.norm if stack.sub_norms else None,
            norm_epsilon=stack.norm_epsilon,
            positions=stack.attention_positions,
            buckets=stack.buckets,
            max_distance=stack.max_distance,
            relative_per_layer=stack.relative_per_layer,
            rotary=stack.rotary,
            disentangled=stack.disentangled,
            position_dropout=self.dropout,
            backend=self.attention,
            block=self.attention_block,
            dropout=self.attention_rate,
        )
        mixer: MixerConfig = attention if place.mixer is None else place.mixer
        if stack.global_block is not None and place.mixer is None:
            mixer = TransientGlobalConfig(**vars(attention), global_block=stack.global_block)
        if stack.latent.rank and place.mixer is None:
            if merged:
                raise UserError(
                    f"model.latent.rank is {stack.latent.rank} together with model.merged_attention: latent attention reads no encoder's output. Nearest: 0."
                )
            mixer = LatentAttentionConfig(**vars(attention), latent=stack.latent)
        return LayerConfig(
            mixer=mixer,
            feed_forward=_feed_forward(stack) if place.feed_forward is None else place.feed_forward,
            norms=NormConfig(
                kind=stack.norm, epsilon=stack.norm_epsilon, place=stack.norm_place, mixer=stack.mixer_norm
            ),
            cross=attention if cross and not merged else None,
            parallel=stack.parallel,
            convolution=place.convolution,
            dropout=self.dropout,
        )

    def _layers(self) -> Iterator[tuple[LayerConfig, Needs]]:
        """Yield the different layers of all stacks, each with what the model needs from it."""
        for field in fields(self):
            stack = getattr(self, field.name)
            if isinstance(stack, StackConfig):
                for layer in (*self.first_of(stack), *self.pattern_of(stack)):
                    yield layer, self._needs(field.name)

    def _needs(self, side: str) -> Needs:
        """Return what the model needs from the mixers of one of its stacks."""
        decoding = side == "decoder"
        return Needs(dtype=self.dtype, bidirectional=not decoding, decoding=decoding)

    @property
    @abc.abstractmethod
    def stacks(self) -> tuple[StackConfig, ...]:
        """The stacks of blocks."""

    @property
    def attention_rate(self) -> float:
        """Dropout rate of attention weights."""
        return self.dropout if self.attention_dropout is None else self.attention_dropout

    @property
    def max_length(self) -> int | None:
        """Longest sequence that the positions allow, in tokens; None if there is no limit."""
        limits = [stack.limit for stack in self.stacks if stack.limit is not None]
        return min(limits, default=None)


def _feed_forward(stack: StackConfig) -> FeedForwardConfig | None:
    """Return the feed-forward layer of a stack whose layers are all the same; None if they have none."""
    if not stack.num_experts and not stack.d_ff:
        return None
    if not stack.num_experts:
        return MLPConfig(
            inner=stack.d_ff,
            activation=stack.activation,
            gated=stack.gated,
            biases=stack.biases,
            sub_norm=stack.norm if stack.sub_norms else None,
            norm_epsilon=stack.norm_epsilon,
        )
    return MoEConfig(
        num_experts=stack.num_experts,
        experts_per_token=stack.experts_per_token,
        inner=stack.expert_size,
        activation=stack.activation,
        gated=stack.gated,
        biases=stack.biases,
        limit=stack.expert_limit,
        shared=stack.shared_expert_d_ff,
        shared_gate=stack.shared_expert_gate,
        capacity=stack.expert_capacity,
        tokens=stack.expert_tokens,
        router=stack.router,
    )
