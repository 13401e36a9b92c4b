"""Small configurations of Qwen 2 and 3."""

from __future__ import annotations

from typing import Any

from tests.interop.case import LLAMA, Case, case

_YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6, "original_max_position_embeddings": 16}


def _qwen2(name: str, **options: Any) -> Case:
    return case("Qwen2", name, "Qwen2Config", "Qwen2ForCausalLM", LLAMA, **options)


def _qwen3(name: str, **options: Any) -> Case:
    return case("Qwen3", name, "Qwen3Config", "Qwen3ForCausalLM", {**LLAMA, "head_dim": 16}, **options)


CASES = (
    _qwen2("2.5: tied", tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
    _qwen2("2: untied, window unused", sliding_window=4, max_window_layers=1, rms_norm_eps=1e-5),
    _qwen2(
        "window, yarn positions",
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=0,
        hidden_act="gelu",
        rope_parameters=_YARN,
    ),
    _qwen3("tied", tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
    _qwen3(
        "untied, biases, window",
        attention_bias=True,
        rms_norm_eps=1e-2,
        num_key_value_heads=4,
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=0,
    ),
)
