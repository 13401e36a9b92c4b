"""Sizes of GPT-NeoX and Pythia."""

from __future__ import annotations

from functools import partial
from typing import Any

from t2t.models.decoder import DecoderConfig
from t2t.models.llama.presets import llama
from t2t.models.preset import Preset
from t2t.nn.rotary import Rotary


def neox(*, num_layers: int, d_model: int, num_heads: int, d_ff: int | None = None, **overrides: Any) -> DecoderConfig:
    """Return the configuration of a GPT-NeoX of any size.

    d_ff:      inner width of the feed-forward layers; None means 4 * d_model.
    overrides: any other argument of `llama`.
    """
    own: dict[str, Any] = {
        "vocab_size": 50_432,
        "activation": "gelu",
        "gated": False,
        "biases": True,
        "norm": "layer",
        "parallel": True,
        "rotary": Rotary(share=0.25),
    }
    sizes = {"num_layers": num_layers, "d_model": d_model, "num_heads": num_heads, "d_ff": d_ff or 4 * d_model}
    return llama(**sizes, **{**own, **overrides})


#                 num_layers d_model num_heads vocabulary
_SIZES = {
    "pythia-70m": (6, 512, 8, 50_304),
    "pythia-160m": (12, 768, 12, 50_304),
    "pythia-410m": (24, 1024, 16, 50_304),
    "pythia-1b": (16, 2048, 8, 50_304),
    "pythia-1.4b": (24, 2048, 16, 50_304),
    "pythia-2.8b": (32, 2560, 32, 50_304),
    "pythia-6.9b": (32, 4096, 32, 50_432),
    "pythia-12b": (36, 5120, 40, 50_688),
    "20b": (44, 6144, 64, 50_432),
}


def sized(size: str, **overrides: Any) -> DecoderConfig:
    """Return "pythia-70m" to "pythia-12b", or "20b", whose GELU is the approximation."""
    names = ("num_layers", "d_model", "num_heads", "vocab_size")
    sizes: dict[str, Any] = dict(zip(names, _SIZES[size], strict=True))
    if size == "20b":
        sizes["activation"] = "gelu_tanh"
    return neox(**{**sizes, **overrides})


_PUBLISHED = {
    "pythia-70m": 70_426_624,
    "pythia-160m": 162_322_944,
    "pythia-410m": 405_334_016,
    "pythia-1b": 1_011_781_632,
    "pythia-1.4b": 1_414_647_808,
    "pythia-2.8b": 2_775_208_960,
    "pythia-6.9b": 6_857_302_016,
    "pythia-12b": 11_846_072_320,
    "20b": 20_554_567_680,
}

PRESETS: dict[str, Preset] = {
    f"neox:{size}": Preset(config=partial(sized, size), published=count, source="released checkpoints")
    for size, count in _PUBLISHED.items()
}
