"""Configuration of a stack of layers: every choice in which the layers of T5, GPT, BERT and LLaMA differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from t2t import former_names
from t2t.errors import UserError
from t2t.limits import (
    Configuration,
    Depth,
    Deviation,
    ExpertsOrZero,
    Few,
    FewOrZero,
    Length,
    LogitScale,
    NormEpsilon,
    Range,
    Softcap,
    Width,
    WidthOrZero,
)
from t2t.models.checks import (
    check_experts,
    check_handed,
    check_heads,
    check_latent,
    check_order,
    check_positions,
    one_of,
)
from t2t.nn.attention.latent import Latent
from t2t.nn.convolution import ConvolutionConfig
from t2t.nn.disentangled import Disentangled
from t2t.nn.feed_forward import FeedForwardConfig
from t2t.nn.initializers import Initializer, Normal, TruncatedNormal, fan_in
from t2t.nn.layers import NormPlace
from t2t.nn.mixers import MixerConfig
from t2t.nn.mlp import Activation
from t2t.nn.moe.layer import CapacityFactor
from t2t.nn.moe.router import BalanceOver, Router, Scores
from t2t.nn.norms import NormKind
from t2t.nn.rotary import Rotary
from t2t.nn.sparse import Sparse

Positions = Literal["relative", "learned", "sinusoidal", "rotary", "disentangled", "none"]
InitKind = Literal["fan_in", "normal", "truncated_normal"]
EMBEDDED = ("learned", "sinusoidal")
"""Positions that are added to the token embeddings."""


@dataclass(frozen=True, kw_only=True)
class LayerOptions(Configuration):
    """Options of the layers at one position of a stack's pattern. None means the value of the stack.

    Args:
        window: same as in `StackConfig`. To use windows in some layers only, set the stack's `window` to None and set this one.
        sparse: sparsity pattern of attention, see `t2t.nn.sparse.Sparse`. None means that a token sees all earlier tokens of its window. Decoders only.
        positions: same as in `StackConfig`: "relative", "rotary", "disentangled" or "none". "learned" and "sinusoidal" can only be set for the whole stack.
        rotary: same as in `StackConfig`.
        num_heads: same as in `StackConfig`.
        num_kv_heads: same as in `StackConfig`.
        head_dim: same as in `StackConfig`.
        d_ff: same as in `StackConfig`.
        num_experts: same as in `StackConfig`: 0 gives these layers one MLP.
        mixer_norm: same as in `StackConfig`.
        mixer: another kind of mixer, used instead of attention.
        feed_forward: another kind of feed-forward layer.
        convolution: add a convolution of the layer's input to its output, and normalize the sum (first layer of DeBERTa v2 XLarge). Encoders only.
    """

    window: Length | None = None
    sparse: Sparse | None = None
    positions: Positions | None = None
    rotary: Rotary | None = None
    num_heads: Width | None = None
    num_kv_heads: Width | None = None
    head_dim: Width | None = None
    d_ff: WidthOrZero | None = None
    num_experts: ExpertsOrZero | None = None
    mixer_norm: bool | None = None
    mixer: MixerConfig | None = None
    feed_forward: FeedForwardConfig | None = None
    convolution: ConvolutionConfig | None = None

    def applied(self, stack: StackConfig) -> StackConfig:
        """Return the options of a stack in which every layer is like this one."""
        options = {field.name for field in fields(StackConfig)}
        changes = {field.name: getattr(self, field.name) for field in fields(self) if field.name in options}
        changes = {name: value for name, value in changes.items() if value is not None}
        return replace(stack, pattern=(), first=(), moe_every=1, **changes)


@dataclass(frozen=True, kw_only=True)
class StackConfig(Configuration):
    """A stack of layers. All layers are the same, or a pattern of layers is repeated.

    Args:
        num_layers: number of layers.
        d_model: width of the residual stream.
        num_heads: number of attention heads.
        d_ff: inner width of the feed-forward layers. 0 means that the layers have none (Mamba).
        head_dim: width of an attention head. None means d_model / num_heads.
        num_kv_heads: number of key and value heads. None means the same as `num_heads`.
        activation: activation of the feed-forward layers. "gelu" is exact, "gelu_tanh" is the approximation that GPT and T5 v1.1 use, "quick_gelu" is
            x sigmoid(1.702 x) (gpt-oss), and "relu2" is the square of ReLU (BitNet).
        gated: use gated feed-forward layers, which multiply two branches (T5 v1.1, LLaMA).
        num_experts: number of experts of the feed-forward layers, a mixture of experts (`t2t.nn.moe`). 0 means one MLP.
        experts_per_token: number of experts that process each token.
        moe_every: use experts in every n-th layer only, the last of each n; the other layers have one MLP of width `d_ff` (Switch Transformer: 2).
        expert_d_ff: inner width of each expert. None means `d_ff`.
        shared_expert_d_ff: inner width of an MLP that processes every token, next to the chosen experts (DeepSeekMoE). None means that there is none.
        shared_expert_gate: multiply the output of that MLP by the sigmoid of a product with the token (Qwen2-MoE, Qwen3-Next).
        expert_capacity: how many tokens of a row an expert has room for, as a multiple of its equal share of the row; further tokens are not processed by it
            (Switch Transformer: 1.25). None means no limit: no token is dropped.
        expert_tokens: the same limit as a number of tokens, whatever the length of the row (`expert_capacity` in `transformers`). None means no such limit.
        expert_limit: bound the gate of each expert above by this value and its other branch on both sides, and add 1 to the other branch (gpt-oss: 7). None
            means neither.
        router: how tokens choose experts.
        biases: add a bias to every matrix product of the layers.
        attention_biases: add a bias to the matrix products of attention. None means the same as `biases`.
        attention_output_bias: add a bias to the last product of attention, which merges the heads. None means the same as `attention_biases`. Qwen 2 has
            biases on queries, keys and values only.
        attention_gate: multiply the output of attention's heads by the sigmoid of a projection of their input, before the last product (Qiu et al. 2025;
            Qwen3-Next).
        groups: number of layers with their own parameters; each is applied num_layers / groups times in a row (ALBERT). None means that no parameters are
            shared.
        norm: kind of norm: "rms" (T5, LLaMA), "rms_plus_one", which multiplies by 1 + its scale (Gemma), "layer" (GPT, BERT) or "layer_unbiased",
            a layer norm without bias (ModernBERT).
        norm_epsilon: small number added to the variance or mean square in the norms.
        norm_place: place of the norms: "pre" normalizes the input of each sublayer, "post" normalizes the residual sum after it (GPT-1, BERT), "sandwich"
            normalizes both the input and the output of the sublayer, before the sum (Gemma 2), "output" normalizes only the output (OLMo 2).
        mixer_norm: give the mixers their norm. The first mixer of ModernBERT has none, because the embeddings are normalized.
        parallel: give the feed-forward layer (and cross attention) the same input as attention, and add the outputs of all of them (GPT-J, GPT-NeoX). Otherwise
            each reads the sum after the one before it.
        final_norm: add a norm after the last layer.
        positions: kind of position encoding: "relative" (T5; see `buckets` and `max_distance`), "learned" (`max_length` vectors, added to the token
            embeddings), "sinusoidal" (fixed vectors, added to the token embeddings: sines, then cosines; Marian, PEGASUS), "rotary" (LLaMA; see `rotary`),
            "disentangled" (DeBERTa; see `disentangled`) or "none".
        learned_positions: with "relative" or "disentangled" positions, add `max_length` learned vectors to the token embeddings too (MPNet).
        buckets: number of buckets of relative positions. It must be even in an encoder.
        max_distance: distance in tokens from which all relative positions share the last bucket.
        relative_per_layer: give each layer its own relative positions (umT5). Otherwise all layers share them (T5).
        rotary: frequencies of rotary positions.
        latent: multi-head latent attention (DeepSeek-V2), if its `rank` is not 0.
        disentangled: vectors of disentangled positions.
        position_offset: number of unused rows in the table of learned positions before the row of position 0 (RoBERTa: 2).
        window: size of the sliding attention window in tokens. In a decoder, a token sees itself and the window - 1 tokens before it (Mistral). In an encoder,
            it sees tokens up to window // 2 positions away on either side (ModernBERT). None means no window.
        global_block: in an encoder with a window, also let each token see the sums of all blocks of this many tokens (LongT5's transient-global attention).
            Only the pairs of tokens in a window, and of tokens and blocks, are computed. None means no blocks.
        exact_window: in an encoder, a token sees exactly `window` tokens, itself included: (window - 1) // 2 before it and window // 2 after it (T5Gemma 2).
        qk_norm: normalize the queries and keys of each head, with the kind of norm that `norm` names (Gemma 3, Qwen 3).
        qk_norm_whole: with `qk_norm`, normalize all heads of the queries, and of the keys, at once, with a scale for each coordinate of each head (OLMo 2).
        sub_norms: normalize the input of the last matrix product of attention and of the feed-forward layers, with the kind of norm that `norm` names (BitNet).
        attention_softcap: soft bound on attention logits: a logit l becomes attention_softcap * tanh(l / attention_softcap) (Gemma 2). None means no bound.
        attention_sinks: give each head a learned logit that takes part in the softmax, so that a head can attend to nothing (gpt-oss).
        max_length: number of learned positions. With rotary or sinusoidal positions it records the training length and limits nothing.
        scaled_attention: divide attention logits by sqrt(head_dim). T5 does not: it initializes the query kernel with smaller values instead.
        attention_scale: factor on attention logits (Gemma 2 27B: 1 / sqrt(144)). None means 1 / sqrt(head_dim), or 1 without `scaled_attention`. With
            disentangled positions, None means 1 / sqrt(n * head_dim) for the sum of n products.
        mlp_dropout: apply dropout inside the feed-forward layers as well (T5).
        final_dropout: apply dropout to the output of the stack as well (T5).
        init: initialization of kernels: "fan_in" (T5), "normal" (GPT) or "truncated_normal" (BERT); the last two use `init_std`.
        init_std: standard deviation of the initial kernels, if `init` is not "fan_in".
        init_residual: divide the initial kernels that write to the residual stream by sqrt(n), the number of these kernels: 2 * num_layers (GPT-2), or num_layers
            if `d_ff` is 0 (Mamba).
        pattern: options of the layers at each position of a repeated pattern; () means that all layers are the same. The pattern starts at the first layer; the
            last repeat may be partial. Set it in a recipe.
        first: options of the first layers, which come before the pattern and have their own parameters.
    """

    num_layers: Depth
    d_model: Width
    num_heads: Width
    d_ff: WidthOrZero
    head_dim: Width | None = None
    num_kv_heads: Width | None = None
    activation: Activation = "gelu_tanh"
    gated: bool = False
    num_experts: ExpertsOrZero = 0
    experts_per_token: Few = 2
    moe_every: Depth = 1
    expert_d_ff: Width | None = None
    shared_expert_d_ff: Width | None = None
    shared_expert_gate: bool = False
    expert_capacity: CapacityFactor | None = None
    expert_tokens: Length | None = None
    expert_limit: Softcap | None = None
    router: Router = Router()
    biases: bool = False
    attention_biases: bool | None = None
    attention_output_bias: bool | None = None
    attention_gate: bool = False
    groups: Depth | None = None
    norm: NormKind = "layer"
    norm_epsilon: NormEpsilon = 1e-6
    norm_place: NormPlace = "pre"
    mixer_norm: bool = True
    parallel: bool = False
    final_norm: bool = True
    positions: Positions = "learned"
    learned_positions: bool = False
    buckets: Annotated[int, Range(4, 2**16)] = 32
    max_distance: Length = 128
    relative_per_layer: bool = False
    rotary: Rotary = Rotary()
    latent: Latent = Latent()
    disentangled: Disentangled = Disentangled()
    position_offset: FewOrZero = 0
    window: Length | None = None
    global_block: Length | None = None
    exact_window: bool = False
    qk_norm: bool = False
    qk_norm_whole: bool = False
    sub_norms: bool = False
    attention_softcap: Softcap | None = None
    attention_sinks: bool = False
    max_length: Length = 512
    scaled_attention: bool = True
    attention_scale: LogitScale | None = None
    mlp_dropout: bool = False
    final_dropout: bool = False
    init: InitKind = "normal"
    init_std: Deviation = 0.02
    init_residual: bool = False
    pattern: tuple[LayerOptions, ...] = ()
    first: tuple[LayerOptions, ...] = ()

    @classmethod
    def upgraded(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the fields of an older run.json in the current format: learned positions with `relative_bias` are relative ones with `learned_positions`."""
        both = fields.get("relative_bias")
        if not isinstance(both, bool):
            return fields
        now = {name: value for name, value in fields.items() if name != "relative_bias"}
        return {**now, "positions": "relative", "learned_positions": True} if both else now

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
        one_of("router.scores", self.router.scores, Scores)
        one_of("router.balance_over", self.router.balance_over, BalanceOver)
        check_heads(self)
        check_positions(self)
        check_order(self)
        for name in ("first", "pattern"):
            for place, layer in enumerate(getattr(self, name)):
                self._check_layer(layer, f"model.{name}[{place}]")
        check_experts(self)
        check_latent(self)
        check_handed(self)

    def _check_layer(self, layer: LayerOptions, where: str) -> None:
        """Raise UserError if the options of one place of the stack are not possible. where: the place."""
        if layer.positions in EMBEDDED and layer.positions != self.positions:
            raise UserError(
                f"{where}.positions is {layer.positions!r}, and model.positions is {self.positions!r}; {layer.positions} positions apply to the whole stack."
                " Nearest: rotary, relative, none."
            )
        try:
            layer.applied(self)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.num_heads if self.head_dim is None else self.head_dim

    @property
    def key_heads(self) -> int:
        """Number of key and value heads."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def places(self) -> tuple[LayerOptions, ...]:
        """The pattern, with that of `moe_every`; one place without options if all layers are the same."""
        if self.moe_every > 1:
            return (*[LayerOptions(num_experts=0)] * (self.moe_every - 1), LayerOptions())
        return self.pattern or (LayerOptions(),)

    @property
    def expert_size(self) -> int:
        """Inner width of each expert."""
        return self.d_ff if self.expert_d_ff is None else self.expert_d_ff

    @property
    def has_attention_biases(self) -> bool:
        """Whether the matrix products of attention have biases."""
        return self.biases if self.attention_biases is None else self.attention_biases

    @property
    def has_attention_output_bias(self) -> bool:
        """Whether the last product of attention has a bias."""
        return self.has_attention_biases if self.attention_output_bias is None else self.attention_output_bias

    @property
    def has_learned_positions(self) -> bool:
        """Whether learned vectors of positions are added to the token embeddings."""
        return self.positions == "learned" or self.learned_positions

    @property
    def attention_positions(self) -> Literal["relative", "rotary", "disentangled", "none"]:
        """The positions that attention uses. `EMBEDDED` ones are added to the embeddings instead."""
        return "none" if self.positions == "learned" or self.positions == "sinusoidal" else self.positions

    @property
    def blocks(self) -> int:
        """Number of blocks that have their own parameters."""
        return self.num_layers if self.groups is None else self.groups

    @property
    def limit(self) -> int | None:
        """Longest sequence that the positions allow, in tokens; None if there is no limit."""
        return self.max_length if self.has_learned_positions else None

    def kernel_init(self, inputs: int, *, shrink: float = 1.0, residual: bool = False) -> Initializer:
        """Return the initializer of a kernel with `inputs` inputs.

        shrink:   factor on the standard deviation if `init` is "fan_in", for T5's queries.
        residual: whether the kernel writes to the residual stream.
        """
        if self.init == "fan_in":
            return TruncatedNormal(fan_in(inputs).std * shrink)
        writing = (2 if self.d_ff or self.num_experts else 1) * self.num_layers
        std = self.init_std / writing**0.5 if residual and self.init_residual else self.init_std
        return Normal(std) if self.init == "normal" else TruncatedNormal(std, exact=False)


if not TYPE_CHECKING:
    __getattr__ = former_names.of(__name__)
