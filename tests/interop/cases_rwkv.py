"""Small configurations of RWKV-4."""

from __future__ import annotations

from typing import Any

from tests.interop.case import VOCAB, Case, case

_SIZES = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "context_length": 64}


def _rwkv(name: str, **options: Any) -> Case:
    return case("RWKV-4", name, "RwkvConfig", "RwkvForCausalLM", _SIZES, **options)


CASES = (
    _rwkv("as published"),
    _rwkv("tied, narrow channel mixing", tie_word_embeddings=True, intermediate_size=40, num_hidden_layers=3),
)
