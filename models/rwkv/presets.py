"""Sizes of RWKV-4 and RWKV-7."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from t2t.models.config import LayerOptions, StackConfig
from t2t.models.decoder import DecoderConfig
from t2t.models.preset import Preset, split_overrides
from t2t.nn.recurrent.channel_mixing import ChannelMixingConfig
from t2t.nn.recurrent.rwkv4 import RWKV4Config
from t2t.nn.recurrent.rwkv7 import RWKV7Config

VOCAB_SIZE = 50_277
WORLD_VOCAB_SIZE = 65_536


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
    inner = 4 * d_model if d_ff is None else d_ff
    layer = LayerOptions(mixer=RWKV4Config(chunk=chunk), feed_forward=ChannelMixingConfig(inner=inner))
    sizes = {"num_layers": num_layers, "d_model": d_model, "d_ff": inner, "max_length": max_length}
    return _decoder({**sizes, "pattern": (layer,), "vocab_size": vocab_size, **overrides})


def rwkv7(
    *,
    num_layers: int,
    d_model: int,
    d_ff: int | None = None,
    max_length: int = 4096,
    vocab_size: int = WORLD_VOCAB_SIZE,
    mixer: RWKV7Config | None = None,
    **overrides: Any,
) -> DecoderConfig:
    """Return the configuration of an RWKV-7 of any size.

    d_ff:       inner width of channel mixing; None means 4 * d_model.
    max_length: training length; limits nothing.
    mixer:      options of time mixing, without `first`; None means those of the smallest preset.
    overrides:  any other field of DecoderConfig or of StackConfig.
    """
    inner = 4 * d_model if d_ff is None else d_ff
    mixer = RWKV7Config() if mixer is None else mixer
    first, later = (
        LayerOptions(mixer=replace(mixer, first=place), feed_forward=ChannelMixingConfig(inner=inner, gated=False))
        for place in (True, False)
    )
    sizes = {"num_layers": num_layers, "d_model": d_model, "d_ff": inner, "max_length": max_length}
    return _decoder({**sizes, "first": (first,), "pattern": (later,), "vocab_size": vocab_size, **overrides})


def _decoder(fields: dict[str, Any]) -> DecoderConfig:
    """Return the decoder with these fields of DecoderConfig and of StackConfig, and what all versions have in common."""
    top, stack = split_overrides(DecoderConfig, fields)
    common = {"num_heads": 1, "norm": "layer", "norm_epsilon": 1e-5, "positions": "none", "init": "fan_in"}
    own: dict[str, Any] = {"tied": False, "embedding_norm": True, "embedding_std": 1e-4}
    return DecoderConfig(**{"decoder": StackConfig(**{**common, **stack}), **own, **top})


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


#        num_layers d_model parameters decay and rate, value and gate: inner widths
_SIZES_7 = {
    "0.1b": (12, 768, 191_034_624, 64, 32, 128),
    "0.4b": (24, 1024, 450_767_872, 64, 32, 128),
    "1.5b": (24, 2048, 1_527_404_544, 96, 64, 256),
    "2.9b": (32, 2560, 2_947_735_040, 96, 64, 320),
}


def sized_7(size: str, **overrides: Any) -> DecoderConfig:
    """Return "7-0.1b", "7-0.4b", "7-1.5b" or "7-2.9b"."""
    num_layers, d_model, _, decay, value, gate = _SIZES_7[size]
    mixer = RWKV7Config(decay_rank=decay, rate_rank=decay, value_rank=value, gate_rank=gate)
    return rwkv7(**{"num_layers": num_layers, "d_model": d_model, "mixer": mixer, **overrides})


PRESETS: dict[str, Preset] = {
    f"rwkv:4-{size}": Preset(
        config=partial(sized, size), published=parameters, source="Peng et al. 2023, table 1", rounding=rounding
    )
    for size, (_, _, parameters, rounding) in _SIZES.items()
}
PRESETS |= {
    f"rwkv:7-{size}": Preset(config=partial(sized_7, size), published=numbers[2], source="Peng et al. 2025")
    for size, numbers in _SIZES_7.items()
}
