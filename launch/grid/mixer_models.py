"""Decoders that differ in one thing: the mixer, the feed-forward layer or the type of the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from t2t.limits import Configuration, Depth, Experts, Few, Length, Width
from t2t.models.config import LayerOptions, StackConfig
from t2t.models.decoder import DecoderConfig
from t2t.models.transformer_config import Dtype
from t2t.nn.attention import Backend
from t2t.nn.mixers import MixerConfig
from t2t.nn.moe.router import Router
from t2t.nn.recurrent.channel_mixing import ChannelMixingConfig
from t2t.nn.recurrent.gated_delta_net import GatedDeltaNetConfig
from t2t.nn.recurrent.mamba2 import Mamba2Config
from t2t.nn.recurrent.retention import RetentionConfig
from t2t.nn.recurrent.rwkv7 import LARGEST_CHUNK, RWKV7Config

Row = Literal["attention", "Mamba-2", "RWKV-7", "RetNet", "gated DeltaNet", "hybrid", "experts", "BitNet"]
ROWS: tuple[Row, ...] = get_args(Row)
REFERENCE: Row = "attention"


@dataclass(frozen=True, kw_only=True)
class Sizes(Configuration):
    """Sizes of the reference. All rows have them, except for `d_ff`, which is found for each row.

    Args:
        num_layers: number of layers.
        d_model: width of the residual stream.
        num_heads: attention heads. The heads of the recurrent mixers have widths in proportion to those of attention.
        d_ff: inner width of the feed-forward layers.
        length: tokens of a row.
    """

    num_layers: Depth = 4
    d_model: Width = 128
    num_heads: Width = 4
    d_ff: Width = 512
    length: Length = 64


@dataclass(frozen=True, kw_only=True)
class Choices(Configuration):
    """What else the rows have.

    Args:
        hybrid: layers of gated DeltaNet before each layer of attention in the hybrid (Qwen3-Next: 3); fewer if the stack has fewer layers.
        num_experts: experts of a layer.
        experts_per_token: experts that process each token.
        chunk: tokens of a chunk of the recurrent mixers. It changes FLOPs and speed, not the result.
        dtype: type of the computation.
        attention: implementation of attention.
    """

    hybrid: Depth = 3
    num_experts: Experts = 8
    experts_per_token: Few = 2
    chunk: Length = 32
    dtype: Dtype = "float32"
    attention: Backend = "einsum"


def decoder(row: Row, sizes: Sizes, choices: Choices, *, d_ff: int, vocab_size: int) -> DecoderConfig:
    """Return the model of a row.

    All rows have nanoGPT's blocks (https://github.com/karpathy/nanoGPT): GPT-2's without biases. Those with attention have its learned positions; recurrent mixers
    need none. The widths inside the mixers have the proportions of their papers. RWKV-7 has its own feed-forward layer and its own initial kernels.

    d_ff: inner width of the feed-forward layers, or of each expert.
    """
    attends = row in ("attention", "hybrid", "experts", "BitNet")
    stack: dict[str, Any] = {
        "num_layers": sizes.num_layers,
        "d_model": sizes.d_model,
        "num_heads": sizes.num_heads,
        "d_ff": d_ff,
        "max_length": sizes.length,
        "activation": "gelu",
        "norm": "layer_unbiased",
        "norm_epsilon": 1e-5,
        "positions": "learned" if attends else "none",
        "init": "normal",
        "init_std": 0.02,
        "init_residual": True,
        **_own(row, sizes, choices, d_ff),
    }
    return DecoderConfig(
        decoder=StackConfig(**stack),
        vocab_size=vocab_size,
        quantization="ternary" if row == "BitNet" else "none",
        dtype=choices.dtype,
        attention=choices.attention,
        embedding_std=0.02,
        position_std=0.02,
    )


def _own(row: Row, sizes: Sizes, choices: Choices, d_ff: int) -> dict[str, Any]:
    """Return the options of a stack in which a row differs from the reference."""
    if row == "experts":
        return {
            "num_experts": choices.num_experts,
            "experts_per_token": choices.experts_per_token,
            "router": Router(balance_loss=0.02),
        }
    if row == "BitNet":
        return {"sub_norms": True}
    if row == "hybrid":
        delta = LayerOptions(mixer=_mixer("gated DeltaNet", sizes, choices))
        # Attention comes last, also in a stack that is shorter than the pattern.
        return {"pattern": (*[delta] * min(choices.hybrid, sizes.num_layers - 1), LayerOptions())}
    if row == "RWKV-7":
        first, later = (
            LayerOptions(
                mixer=_rwkv7(sizes, choices, first=place),
                feed_forward=ChannelMixingConfig(inner=d_ff, gated=False),
            )
            for place in (True, False)
        )
        return {"first": (first,), "pattern": (later,), "init": "fan_in"}
    if row == REFERENCE:
        return {}
    return {"pattern": (LayerOptions(mixer=_mixer(row, sizes, choices)),)}


def _mixer(row: Row, sizes: Sizes, choices: Choices) -> MixerConfig:
    head = sizes.d_model // sizes.num_heads
    if row == "Mamba-2":
        return Mamba2Config(num_heads=2 * sizes.num_heads, head_dim=head, state_size=2 * head, chunk=choices.chunk)
    if row == "RetNet":
        return RetentionConfig(num_heads=sizes.num_heads, key_dim=head, value_dim=2 * head, chunk=choices.chunk)
    assert row == "gated DeltaNet", row
    key = max(3 * head // 4, 1)
    return GatedDeltaNetConfig(num_heads=sizes.num_heads, key_dim=key, value_dim=2 * key, chunk=choices.chunk)


def _rwkv7(sizes: Sizes, choices: Choices, *, first: bool) -> RWKV7Config:
    rank = max(sizes.d_model // 8, 1)
    return RWKV7Config(
        head_dim=sizes.d_model // sizes.num_heads,
        decay_rank=rank,
        rate_rank=rank,
        value_rank=max(rank // 2, 1),
        gate_rank=2 * rank,
        first=first,
        chunk=min(choices.chunk, LARGEST_CHUNK),
    )
