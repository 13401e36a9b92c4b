"""Small configurations of OLMo 2 and 3, of Phi-3, and of GPT-NeoX."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.interop.case import LLAMA, Case, case

_YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 8, "rope_theta": 5e5}
_YARN |= {"beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": 1.2}
_PLAIN = {"rope_type": "default", "rope_theta": 5e5}
_FACTORS = {"short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5], "long_factor": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}


def _olmo(version: int, name: str, **options: Any) -> Case:
    config, model = f"Olmo{version}Config", f"Olmo{version}ForCausalLM"
    return case(f"OLMo {version}", name, config, model, LLAMA, pad_token_id=0, **options)


def _phi(name: str, **options: Any) -> Case:
    sizes = {**LLAMA, "hidden_size": 64, "pad_token_id": 0}
    return case("Phi-3", name, "Phi3Config", "Phi3ForCausalLM", sizes, **options)


def _neox(name: str, **options: Any) -> Case:
    sizes = {name: size for name, size in LLAMA.items() if name != "num_key_value_heads"}
    return case("GPT-NeoX", name, "GPTNeoXConfig", "GPTNeoXForCausalLM", sizes, **options)


CASES: tuple[Case, ...] = (
    _olmo(2, "as published", num_key_value_heads=4, rms_norm_eps=1e-6, rope_parameters=_PLAIN),
    _olmo(
        2,
        "grouped, tied, biases, yarn positions",
        head_dim=6,
        tie_word_embeddings=True,
        attention_bias=True,
        hidden_act="gelu",
        rms_norm_eps=1e-2,
        rope_parameters={**_YARN, "rope_theta": 1e4},
    ),
    _olmo(
        3,
        "as published",
        num_hidden_layers=4,
        num_key_value_heads=4,
        sliding_window=4,
        rms_norm_eps=1e-6,
        # A factor above 1, as published, makes the softmax sharper, which amplifies rounding errors in training.
        rope_parameters={"full_attention": {**_YARN, "attention_factor": 0.8}, "sliding_attention": _PLAIN},
    ),
    _olmo(
        3,
        "grouped, tied, biases, other layers",
        num_hidden_layers=3,
        sliding_window=3,
        tie_word_embeddings=True,
        attention_bias=True,
        layer_types=["full_attention", "sliding_attention", "sliding_attention"],
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": 1e5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    ),
    replace(_phi("as published", num_key_value_heads=4, sliding_window=4), exported="mistral"),
    _phi(
        "4-mini: tied, longrope, partial positions",
        original_max_position_embeddings=4,
        tie_word_embeddings=True,
        sliding_window=32,
        rope_parameters={"rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.75, **_FACTORS},
    ),
    _phi(
        "partial positions, GELU",
        hidden_act="gelu",
        rms_norm_eps=1e-2,
        rope_parameters={"rope_type": "default", "rope_theta": 1e5, "partial_rotary_factor": 0.5},
    ),
    _neox("Pythia as published"),
    _neox(
        "sequential, tied, no biases in attention, linear positions",
        use_parallel_residual=False,
        tie_word_embeddings=True,
        attention_bias=False,
        hidden_act="gelu_fast",
        layer_norm_eps=1e-2,
        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e5, "partial_rotary_factor": 0.5},
    ),
)
