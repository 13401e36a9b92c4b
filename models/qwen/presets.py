"""Sizes of Qwen 2.5 and 3."""

from __future__ import annotations

from functools import partial
from typing import Any

from t2t.models.decoder import DecoderConfig
from t2t.models.llama.presets import llama
from t2t.models.preset import Preset
from t2t.nn.moe.router import Router

#                   num_layers d_model num_heads num_kv_heads d_ff  vocabulary length epsilon tied
_SIZES: dict[str, tuple[int, int, int, int, int, int, int, float, bool]] = {
    "2.5-0.5b": (24, 896, 14, 2, 4864, 151_936, 32_768, 1e-6, True),
    "2.5-1.5b": (28, 1536, 12, 2, 8960, 151_936, 131_072, 1e-6, True),
    "2.5-3b": (36, 2048, 16, 2, 11008, 151_936, 32_768, 1e-6, True),
    "2.5-7b": (28, 3584, 28, 4, 18944, 152_064, 131_072, 1e-6, False),
    "2.5-14b": (48, 5120, 40, 8, 13824, 152_064, 131_072, 1e-5, False),
    "2.5-32b": (64, 5120, 40, 8, 27648, 152_064, 131_072, 1e-5, False),
    "2.5-72b": (80, 8192, 64, 8, 29568, 152_064, 131_072, 1e-5, False),
    "3-0.6b": (28, 1024, 16, 8, 3072, 151_936, 40_960, 1e-6, True),
    "3-1.7b": (28, 2048, 16, 8, 6144, 151_936, 40_960, 1e-6, True),
    "3-4b": (36, 2560, 32, 8, 9728, 151_936, 40_960, 1e-6, True),
    "3-8b": (36, 4096, 32, 8, 12288, 151_936, 40_960, 1e-6, False),
    "3-14b": (40, 5120, 40, 8, 17408, 151_936, 40_960, 1e-6, False),
    "3-32b": (64, 5120, 64, 8, 25600, 151_936, 40_960, 1e-6, False),
}

#     num_layers d_model num_heads num_kv_heads d_ff of a dense layer, of an expert
_EXPERTS: dict[str, tuple[int, int, int, int, int, int]] = {
    "3-30b-a3b": (48, 2048, 32, 4, 6144, 768),
    "3-235b-a22b": (94, 4096, 64, 4, 12_288, 1536),
}


def qwen3_moe(*, num_layers: int, d_model: int, num_heads: int, d_ff: int, **overrides: Any) -> DecoderConfig:
    """Return the configuration of a mixture of experts of Qwen 3 of any size.

    d_ff:      inner width of layers without experts; that of an expert is `expert_d_ff`.
    overrides: any other argument of `llama`.
    """
    own: dict[str, Any] = {
        "vocab_size": 151_936,
        "max_length": 40_960,
        "norm_epsilon": 1e-6,
        "base": 1_000_000.0,
        "head_dim": 128,
        "qk_norm": True,
        "num_experts": 128,
        "experts_per_token": 8,
        "router": Router(balance_loss=0.001),
    }
    sizes = {"num_layers": num_layers, "d_model": d_model, "num_heads": num_heads, "d_ff": d_ff}
    return llama(**sizes, **{**own, **overrides})


def sized_moe(size: str, **overrides: Any) -> DecoderConfig:
    """Return "3-30b-a3b" or "3-235b-a22b"."""
    names = ("num_layers", "d_model", "num_heads", "num_kv_heads", "d_ff", "expert_d_ff")
    sizes: dict[str, Any] = dict(zip(names, _EXPERTS[size], strict=True))
    return qwen3_moe(**{**sizes, **overrides})


def sized(size: str, **overrides: Any) -> DecoderConfig:
    """Return a published size: "2.5-0.5b" to "2.5-72b" or "3-0.6b" to "3-32b"."""
    num_layers, d_model, num_heads, num_kv_heads, d_ff, vocab_size, max_length, epsilon, tied = _SIZES[size]
    sizes: dict[str, Any] = {
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "d_ff": d_ff,
        "vocab_size": vocab_size,
        "max_length": max_length,
        "norm_epsilon": epsilon,
        "base": 1_000_000.0,
        "tied": tied,
    }
    if size.startswith("2.5-"):
        sizes |= {"attention_biases": True, "attention_output_bias": False}
    else:
        sizes |= {"head_dim": 128, "qk_norm": True}
    return llama(**{**sizes, **overrides})


_PUBLISHED = {
    "2.5-0.5b": 494_032_768,
    "2.5-1.5b": 1_543_714_304,
    "2.5-3b": 3_085_938_688,
    "2.5-7b": 7_615_616_512,
    "2.5-14b": 14_770_033_664,
    "2.5-32b": 32_763_876_352,
    "2.5-72b": 72_706_203_648,
    "3-0.6b": 596_049_920,
    "3-1.7b": 1_720_574_976,
    "3-4b": 4_022_468_096,
    "3-8b": 8_190_735_360,
    "3-14b": 14_768_307_200,
    "3-32b": 32_762_123_264,
}

# total, active and rounded
_PUBLISHED_EXPERTS = {"3-30b-a3b": (30_532_122_624, 3_300_000_000), "3-235b-a22b": (235_093_634_560, 22_000_000_000)}

PRESETS: dict[str, Preset] = {
    f"qwen:{size}": Preset(config=partial(sized, size), published=count, source="released checkpoints")
    for size, count in _PUBLISHED.items()
} | {
    f"qwen:{size}": Preset(
        config=partial(sized_moe, size), published=count, source="released checkpoints", active=active
    )
    for size, (count, active) in _PUBLISHED_EXPERTS.items()
}
