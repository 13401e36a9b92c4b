"""Decoders of one layer (RWKV-4: two) that transformers has too, as options of its config.json. This module only uses the standard library.

The layer that a case is named after takes nearly all of the time: what else belongs to the block is as small as it can be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.cases import Case

VOCABULARY = 256
SMALL = 16
"""Width of a feed-forward layer or of attention that is not measured."""


def _llama(width: int, heads: int) -> dict[str, Any]:
    sizes = {"hidden_size": width, "num_attention_heads": heads, "num_key_value_heads": heads}
    return {**sizes, "head_dim": width // heads, "intermediate_size": SMALL, "max_position_embeddings": 512}


def _attention(width: int, heads: int) -> dict[str, Any]:
    return {"model_type": "llama", **_llama(width, heads)}


def _experts(width: int, heads: int) -> dict[str, Any]:
    sizes = {**_llama(width, 1), "head_dim": SMALL, "intermediate_size": 2 * width}
    return {"model_type": "mixtral", **sizes, "num_local_experts": 8, "num_experts_per_tok": 2}


def _ternary(width: int, heads: int) -> dict[str, Any]:
    rounding = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
    sizes = {**_llama(width, heads), "intermediate_size": 2 * width, "pad_token_id": 0}
    return {"model_type": "bitnet", **sizes, "quantization_config": rounding}


def _mamba(width: int, heads: int) -> dict[str, Any]:
    return {"model_type": "mamba", "hidden_size": width}


def _mamba2(width: int, heads: int) -> dict[str, Any]:
    sizes = {"hidden_size": width, "num_heads": 2 * heads, "head_dim": width // heads, "n_groups": 1, "chunk_size": 64}
    return {"model_type": "mamba2", **sizes}


def _rwkv(width: int, heads: int) -> dict[str, Any]:
    # transformers cannot initialize a model of one layer.
    return {
        "model_type": "rwkv",
        "num_hidden_layers": 2,
        "hidden_size": width,
        "attention_hidden_size": width,
        "context_length": 512,
    }


def _delta(width: int, heads: int) -> dict[str, Any]:
    sizes = {"linear_num_value_heads": heads, "linear_num_key_heads": heads}
    sizes |= {"linear_key_head_dim": width // heads, "linear_value_head_dim": width // heads}
    experts = {"num_experts": 2, "num_experts_per_tok": 2, "moe_intermediate_size": SMALL}
    experts |= {"shared_expert_intermediate_size": SMALL}
    kinds = {"model_type": "qwen3_next", "layer_types": ["linear_attention"]}
    return {**kinds, **_llama(width, heads), **sizes, **experts}


_OPTIONS: dict[str, Callable[[int, int], dict[str, Any]]] = {
    "attention": _attention,
    "mamba": _mamba,
    "mamba2": _mamba2,
    "rwkv4": _rwkv,
    "gated_delta_net": _delta,
    "experts": _experts,
    "bitnet": _ternary,
}


def options(case: Case) -> dict[str, Any]:
    """Return the options of config.json of the case's model."""
    sizes = case.sizes
    common = {"num_hidden_layers": 1, "vocab_size": VOCABULARY, "tie_word_embeddings": True}
    return {**common, **_OPTIONS[case.model](sizes.d_model, sizes.num_heads)}
