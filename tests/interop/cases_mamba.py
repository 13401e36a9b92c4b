"""Small configurations of Mamba and Mamba-2."""

from __future__ import annotations

from typing import Any

from tests.interop.case import VOCAB, Case, case

_SIZES = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}


def _mamba(name: str, **options: Any) -> Case:
    return case("Mamba", name, "MambaConfig", "MambaForCausalLM", _SIZES, **options)


def _mamba2(name: str, **options: Any) -> Case:
    return case("Mamba-2", name, "Mamba2Config", "Mamba2ForCausalLM", {**_SIZES, "head_dim": 8}, **options)


CASES = (
    _mamba("as published"),
    _mamba(
        "separate head, biases, wide, rank 5",
        tie_word_embeddings=False,
        use_bias=True,
        use_conv_bias=False,
        conv_kernel=3,
        expand=3,
        time_step_rank=5,
    ),
    _mamba2("as published", num_heads=8, n_groups=1, tie_word_embeddings=True),
    _mamba2(
        "groups, separate head, no biases, wide, chunks of 4",
        num_heads=12,
        expand=3,
        n_groups=4,
        use_conv_bias=False,
        conv_kernel=3,
        chunk_size=4,
    ),
)
