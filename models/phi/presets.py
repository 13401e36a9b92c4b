"""Sizes of Phi-3 and Phi-4."""

from __future__ import annotations

from functools import partial
from typing import Any

from t2t.models.decoder import DecoderConfig
from t2t.models.llama.presets import llama
from t2t.models.preset import Preset
from t2t.nn.rotary import Rotary


def phi(*, num_layers: int, d_model: int, num_heads: int, d_ff: int, **overrides: Any) -> DecoderConfig:
    """Return the configuration of a Phi-3 of any size. overrides: any other argument of `llama`."""
    sizes = {"num_layers": num_layers, "d_model": d_model, "num_heads": num_heads, "d_ff": d_ff}
    return llama(**sizes, **{"vocab_size": 32_064, "max_length": 4096, **overrides})


# fmt: off
_LONG_FACTORS = (
    1.0, 1.118320672, 1.250641126, 1.398617824, 1.564103225, 1.74916897, 1.956131817, 2.187582649, 2.446418898, 2.735880826, 3.059592084, 3.421605075,
    3.826451687, 4.279200023, 4.785517845, 5.351743533, 5.984965424, 6.693110555, 7.485043894, 8.370679318, 9.36110372, 10.4687158, 11.70738129,
    13.09260651, 14.64173252, 16.37415215, 18.31155283, 20.47818807, 22.90118105, 25.61086418, 28.64115884, 32.03, 32.1, 32.13, 32.23, 32.6, 32.61, 32.64,
    32.66, 32.7, 32.71, 32.93, 32.97, 33.28, 33.49, 33.5, 44.16, 47.77,
)
# fmt: on
_LONG = Rotary(
    scaling="longrope",
    factor=32.0,
    original_length=4096,
    share=0.75,
    long_factors=_LONG_FACTORS,
    short_factors=(1.0,) * len(_LONG_FACTORS),
)
"""The positions of Phi-4-mini."""

_SIZES: dict[str, dict[str, Any]] = {
    "3-mini": {"num_layers": 32, "d_model": 3072, "num_heads": 32, "d_ff": 8192, "window": 2047},
    "3-medium": {
        **{"num_layers": 40, "d_model": 5120, "num_heads": 40, "num_kv_heads": 10, "d_ff": 17_920},
        **{"window": 2047},
    },
    "4": {
        **{"num_layers": 40, "d_model": 5120, "num_heads": 40, "num_kv_heads": 10, "d_ff": 17_920},
        **{"vocab_size": 100_352, "max_length": 16_384, "base": 250_000.0},
    },
    "4-mini": {
        **{"num_layers": 32, "d_model": 3072, "num_heads": 24, "num_kv_heads": 8, "d_ff": 8192, "window": 262_144},
        **{"vocab_size": 200_064, "max_length": 131_072, "rotary": _LONG, "tied": True},
    },
}


def sized(size: str, **overrides: Any) -> DecoderConfig:
    """Return "3-mini" or "3-medium", both with 4096 tokens of context, "4" or "4-mini"."""
    return phi(**{**_SIZES[size], **overrides})


_PUBLISHED = {"3-mini": 3_821_079_552, "3-medium": 13_960_238_080, "4": 14_659_507_200, "4-mini": 3_836_021_760}

PRESETS: dict[str, Preset] = {
    f"phi:{size}": Preset(config=partial(sized, size), published=count, source="released checkpoints")
    for size, count in _PUBLISHED.items()
}
