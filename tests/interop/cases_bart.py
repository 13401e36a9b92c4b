"""Cases of BART and the families that share its tensors."""

from __future__ import annotations

from typing import Any

from tests.interop.case import VOCAB, Case, case

_BART: dict[str, Any] = {"vocab_size": VOCAB, "d_model": 32, "max_position_embeddings": 24, "pad_token_id": 1}
_BART |= {f"{side}_layers": 2 for side in ("encoder", "decoder")}
_BART |= {f"{side}_attention_heads": 4 for side in ("encoder", "decoder")}
_BART |= {f"{side}_ffn_dim": 48 for side in ("encoder", "decoder")}
# The comparison of generation has end tokens of its own.
_BART |= {"forced_eos_token_id": None}


def _bart(name: str, **options: Any) -> Case:
    return case("BART", name, "BartConfig", "BartForConditionalGeneration", _BART, **options)


def _mbart(name: str, **options: Any) -> Case:
    return case("mBART", name, "MBartConfig", "MBartForConditionalGeneration", _BART, **options)


def _pegasus(name: str, **options: Any) -> Case:
    return case("PEGASUS", name, "PegasusConfig", "PegasusForConditionalGeneration", _BART, **options)


def _marian(name: str, **options: Any) -> Case:
    return case("Marian", name, "MarianConfig", "MarianMTModel", _BART, **options)


CASES: tuple[Case, ...] = (
    _bart("as published"),
    _bart(
        "scaled embeddings, ReLU, deeper decoder",
        scale_embedding=True,
        activation_function="relu",
        decoder_layers=3,
        decoder_attention_heads=2,
        decoder_ffn_dim=40,
    ),
    _mbart("as published", scale_embedding=True, activation_function="relu"),
    _mbart("GELU, narrow decoder", decoder_attention_heads=2, decoder_ffn_dim=40),
    _pegasus("as published", scale_embedding=True, activation_function="relu"),
    _pegasus("GELU, deeper decoder", decoder_layers=3, decoder_attention_heads=2, decoder_ffn_dim=40),
    _marian("as published", scale_embedding=True, activation_function="swish"),
    _marian("GELU, narrow decoder", decoder_attention_heads=2, decoder_ffn_dim=40),
)
