"""Small configurations of SmolLM3."""

from __future__ import annotations

from typing import Any

from tests.interop.case import LLAMA, Case, case


def _smollm3(name: str, **options: Any) -> Case:
    return case("SmolLM3", name, "SmolLM3Config", "SmolLM3ForCausalLM", LLAMA, pad_token_id=0, **options)


CASES = (
    _smollm3(
        "as published",
        num_hidden_layers=4,
        rope_parameters={"rope_type": "default", "rope_theta": 5e6},
    ),
    _smollm3(
        "untied, biases, every second layer",
        num_hidden_layers=3,
        no_rope_layer_interval=2,
        tie_word_embeddings=False,
        attention_bias=True,
        mlp_bias=True,
    ),
)
