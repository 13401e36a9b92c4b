"""Sizes of RWKV-4."""

from __future__ import annotations

from functools import partial
from typing import Any

from t2t.models.config import LayerOptions, StackConfig
from t2t.models.decoder import DecoderConfig
from t2t.models.preset import Preset, split_overrides
from t2t.nn.recurrent.channel_mixing import ChannelMixingConfig
from t2t.nn.recurrent.rwkv4 import RWKV4Config

VOCAB_SIZE = 50_277


def rwkv4(
    *,
    num_layers: int,
    d_model: int,
    d_ff: int | None = None,
    max_length: int = 1024,
    vocab_size: int = VOCAB_SIZE,
    chunk: int = 32,
    **overrides: Any,
) -> DecoderConfig:
    """Return the configuration of an RWKV-4 of any size.

    d_ff:       inner width of channel mixing; None means 4 * d_model.
    max_length: training length; limits nothing.
    chunk:      number of positions that are computed at the same time, see `RWKV4Config`.
    overrides:  any other field of DecoderConfig or of StackConfig.
    """
    top, stacks = split_overrides(DecoderConfig, overrides)
    inner = 4 * d_model if d_ff is None else d_ff
    layer = LayerOptions(mixer=RWKV4Config(chunk=chunk), feed_forward=ChannelMixingConfig(inner=inner))
    stack: dict[str, Any] = {
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": 1,
        "d_ff": inner,
        "max_length": max_length,
        "norm": "layer",
        "norm_epsilon": 1e-5,
        "positions": "none",
        "init": "fan_in",
        "pattern": (layer,),
        **stacks,
    }
    own: dict[str, Any] = {"tied": False, "embedding_norm": True, "embedding_std": 1e-4}
    return DecoderConfig(**{"vocab_size": vocab_size, "decoder": StackConfig(**stack), **own, **top})


#        num_layers d_model parameters      rounded to
_SIZES = {
    "169m": (12, 768, 169_300_000, 100_000),
    "430m": (24, 1024, 430_400_000, 100_000),
    "1.5b": (24, 2048, 1_515_000_000, 1_000_000),
    "3b": (32, 2560, 2_985_000_000, 1_000_000),
    "7b": (32, 4096, 7_393_000_000, 1_000_000),
    "14b": (40, 5120, 14_150_000_000, 10_000_000),
}


def sized(size: str, **overrides: Any) -> DecoderConfig:
    """Return "4-169m", "4-430m", "4-1.5b", "4-3b", "4-7b" or "4-14b"."""
    num_layers, d_model, *_ = _SIZES[size]
    return rwkv4(**{"num_layers": num_layers, "d_model": d_model, **overrides})


PRESETS: dict[str, Preset] = {
    f"rwkv:4-{size}": Preset(
        config=partial(sized, size), published=parameters, source="Peng et al. 2023, table 1", rounding=rounding
    )
    for size, (_, _, parameters, rounding) in _SIZES.items()
}
