"""Sizes of Mamba and Mamba-2."""

from __future__ import annotations

from functools import partial
from typing import Any

from t2t.models.config import LayerOptions, StackConfig
from t2t.models.decoder import DecoderConfig
from t2t.models.preset import Preset, split_overrides
from t2t.nn.mixers import MixerConfig
from t2t.nn.recurrent.mamba import MambaConfig
from t2t.nn.recurrent.mamba2 import Mamba2Config


def mamba(
    *,
    num_layers: int,
    d_model: int,
    expand: int = 2,
    dt_rank: int | None = None,
    mixer: dict[str, Any] | None = None,
    **overrides: Any,
) -> DecoderConfig:
    """Return the configuration of a Mamba of any size.

    expand:    width of a mixer, as a multiple of d_model.
    dt_rank:   rank of the time steps. None means d_model / 16, rounded up.
    mixer:     other fields of `MambaConfig`.
    overrides: any other field of DecoderConfig or of StackConfig.
    """
    rank = -(-d_model // 16) if dt_rank is None else dt_rank
    own = MambaConfig(inner=expand * d_model, dt_rank=rank, **(mixer or {}))
    return _decoder(own, num_layers=num_layers, d_model=d_model, **{"vocab_size": 50_280, **overrides})


def mamba2(
    *,
    num_layers: int,
    d_model: int,
    expand: int = 2,
    head_dim: int = 64,
    mixer: dict[str, Any] | None = None,
    **overrides: Any,
) -> DecoderConfig:
    """Return the configuration of a Mamba-2 of any size.

    expand:    width of all heads of a mixer, as a multiple of d_model.
    head_dim:  width of a head.
    mixer:     other fields of `Mamba2Config`.
    overrides: any other field of DecoderConfig or of StackConfig.
    """
    own = Mamba2Config(num_heads=expand * d_model // head_dim, head_dim=head_dim, **(mixer or {}))
    return _decoder(own, num_layers=num_layers, d_model=d_model, **{"vocab_size": 50_288, **overrides})


def _decoder(mixer: MixerConfig, *, vocab_size: int, **overrides: Any) -> DecoderConfig:
    top, stacks = split_overrides(DecoderConfig, overrides)
    stack: dict[str, Any] = {
        "num_heads": 1,  # there is no attention
        "d_ff": 0,
        "norm": "rms",
        "norm_epsilon": 1e-5,
        "positions": "none",
        "init": "normal",
        "init_std": 0.02,
        "init_residual": True,
        "pattern": (LayerOptions(mixer=mixer),),
        **stacks,
    }
    return DecoderConfig(
        **{"vocab_size": vocab_size, "decoder": StackConfig(**stack), "tied": True, "embedding_std": 0.02, **top}
    )


#         num_layers d_model
_SIZES = {
    "130m": (24, 768),
    "370m": (48, 1024),
    "790m": (48, 1536),
    "1.4b": (48, 2048),
    "2.8b": (64, 2560),
    "2-130m": (24, 768),
    "2-370m": (48, 1024),
    "2-780m": (48, 1536),
    "2-1.3b": (48, 2048),
    "2-2.7b": (64, 2560),
    "2-codestral-7b": (64, 4096),
}


def sized(size: str, **overrides: Any) -> DecoderConfig:
    """Return "130m" to "2.8b" (Mamba), "2-130m" to "2-2.7b" (Mamba-2) or "2-codestral-7b"."""
    sizes: dict[str, Any] = dict(zip(("num_layers", "d_model"), _SIZES[size], strict=True))
    if size == "2-codestral-7b":
        sizes |= {"vocab_size": 32_768, "tied": False, "mixer": {"groups": 8}}
    make = mamba2 if size.startswith("2-") else mamba
    return make(**{**sizes, **overrides})


_PUBLISHED = {
    "130m": 129_135_360,
    "370m": 371_516_416,
    "790m": 793_204_224,
    "1.4b": 1_372_178_432,
    "2.8b": 2_768_345_600,
    "2-130m": 128_989_632,
    "2-codestral-7b": 7_285_403_648,
}

#       count, rounding
_ROUNDED = {
    "2-370m": (370_000_000, 10_000_000),
    "2-780m": (780_000_000, 10_000_000),
    "2-1.3b": (1_300_000_000, 100_000_000),
    "2-2.7b": (2_700_000_000, 100_000_000),
}

PRESETS: dict[str, Preset] = {
    f"mamba:{size}": Preset(config=partial(sized, size), published=count, source="released checkpoints")
    for size, count in _PUBLISHED.items()
}
PRESETS |= {
    f"mamba:{size}": Preset(config=partial(sized, size), published=count, source="Dao and Gu 2024", rounding=rounding)
    for size, (count, rounding) in _ROUNDED.items()
}
