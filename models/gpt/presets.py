"""Sizes of GPT."""

from __future__ import annotations

from functools import partial
from typing import Any

from t2t import former_names
from t2t.models.config import LayerOptions, StackConfig
from t2t.models.decoder import DecoderConfig
from t2t.models.preset import Preset, split_overrides

VOCAB_SIZE_1 = 40478
VOCAB_SIZE = 50257


@former_names.sizes
def gpt(
    *,
    num_layers: int,
    d_model: int,
    num_heads: int,
    d_ff: int | None = None,
    max_length: int = 1024,
    vocab_size: int = VOCAB_SIZE,
    **overrides: Any,
) -> DecoderConfig:
    """Return the configuration of a GPT-2 or GPT-3 of any size.

    d_ff:       inner width of the feed-forward layers; None means 4 * d_model.
    max_length: number of learned positions.
    overrides:  any other field of DecoderConfig (such as `mask="prefix"`) or of StackConfig.
    """
    top, stacks = split_overrides(DecoderConfig, overrides)
    stack: dict[str, Any] = {
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": num_heads,
        "d_ff": 4 * d_model if d_ff is None else d_ff,
        "max_length": max_length,
        "activation": "gelu_tanh",
        "biases": True,
        "norm": "layer",
        "norm_epsilon": 1e-5,
        "positions": "learned",
        "init": "normal",
        "init_std": 0.02,
        "init_residual": True,
        **stacks,
    }
    return DecoderConfig(
        **{
            "vocab_size": vocab_size,
            "decoder": StackConfig(**stack),
            "dropout": 0.1,
            "embedding_std": 0.02,
            "position_std": 0.01,
            **top,
        }
    )


@former_names.sizes
def gpt1(**overrides: Any) -> DecoderConfig:
    """Return GPT-1: 12 layers, width 768, norms after the sublayers, 512 positions."""
    sizes = {"num_layers": 12, "d_model": 768, "num_heads": 12, "max_length": 512, "vocab_size": VOCAB_SIZE_1}
    choices = {"norm_place": "post", "final_norm": False, "init_residual": False, "position_std": 0.02}
    return gpt(**{**sizes, **choices, **overrides})


#            num_layers d_model num_heads
_SIZES_2 = {"small": (12, 768, 12), "medium": (24, 1024, 16), "large": (36, 1280, 20), "xl": (48, 1600, 25)}
_SIZES_3 = {
    "125m": (12, 768, 12),
    "350m": (24, 1024, 16),
    "760m": (24, 1536, 16),
    "1.3b": (24, 2048, 16),
    "2.7b": (32, 2560, 32),
    "6.7b": (32, 4096, 32),
    "13b": (40, 5120, 40),
    "175b": (96, 12288, 96),
}


@former_names.sizes
def gpt2(size: str, **overrides: Any) -> DecoderConfig:
    """Return GPT-2 "small", "medium", "large" or "xl", with 1,024 positions."""
    num_layers, d_model, num_heads = _SIZES_2[size]
    return gpt(**{"num_layers": num_layers, "d_model": d_model, "num_heads": num_heads, **overrides})


@former_names.sizes
def gpt3(size: str, *, band: int | None = None, **overrides: Any) -> DecoderConfig:
    """Return GPT-3 "125m", "350m", "760m", "1.3b", "2.7b", "6.7b", "13b" or "175b", with 2,048 positions and no dropout.

    band: number of tokens that every second layer sees, from the second one on: dense and locally banded layers alternate, as in the paper (section 2.1), which
        does not give this number. None means that all layers are dense.

    Two rows of table 2.1 of the paper contradict the totals in its table D.1. The sizes here match the totals: the 1.3B model has 16 heads of width 128, not
    24, and the 13B model has width 5,120 (40 heads of width 128), not 5,140.
    """
    num_layers, d_model, num_heads = _SIZES_3[size]
    sizes = {"num_layers": num_layers, "d_model": d_model, "num_heads": num_heads, "max_length": 2048, "dropout": 0.0}
    banded = {} if band is None else {"pattern": (LayerOptions(), LayerOptions(window=band))}
    return gpt(**{**sizes, **banded, **overrides})


_PUBLISHED_2 = {"small": 124_439_808, "medium": 354_823_168, "large": 774_030_080, "xl": 1_557_611_200}
_MILLION = 1_000_000
_PUBLISHED_3 = {  # millions, and the unit of rounding
    "125m": (125, 1),
    "350m": (356, 1),
    "760m": (760, 1),
    "1.3b": (1_320, 10),
    "2.7b": (2_650, 10),
    "6.7b": (6_660, 10),
    "13b": (12_850, 10),
    "175b": (174_600, 100),
}

PRESETS: dict[str, Preset] = {
    "gpt:1": Preset(config=gpt1, published=116_534_784, source="released checkpoint of openai/finetune-transformer-lm"),
    **{
        f"gpt:2-{size}": Preset(
            config=partial(gpt2, size), published=count, source="released checkpoints of openai/gpt-2"
        )
        for size, count in _PUBLISHED_2.items()
    },
    **{
        f"gpt:3-{size}": Preset(
            config=partial(gpt3, size),
            published=count * _MILLION,
            rounding=unit * _MILLION,
            source="Brown et al. 2020, table D.1",
        )
        for size, (count, unit) in _PUBLISHED_3.items()
    },
}
