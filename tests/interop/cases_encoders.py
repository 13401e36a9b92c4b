"""Cases of encoders: ModernBERT."""

from __future__ import annotations

from typing import Any

from tests.interop.case import HEADS, VOCAB, Case, case

LABELS = ("no", "yes", "perhaps")
_MODERN = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 5, "num_attention_heads": 4}
_MODERN |= {"intermediate_size": 24, "max_position_embeddings": 64, "pad_token_id": 0, "local_attention": 6}


def headed(family: str, model: str, kind: str, base: dict[str, Any], **options: Any) -> Case:
    """Return the case of a head. model: prefix of the names of the family's classes."""
    labels = {} if kind == "QuestionAnswering" else {"id2label": dict(enumerate(LABELS))}
    return case(family, HEADS[kind], f"{model}Config", f"{model}For{kind}", base, **options, **labels)


def _modern(name: str, **options: Any) -> Case:
    return case("ModernBERT", name, "ModernBertConfig", "ModernBertForMaskedLM", _MODERN, **options)


CASES: tuple[Case, ...] = (
    _modern("masked LM"),
    _modern(
        "biases, layer types, untied",
        attention_bias=True,
        mlp_bias=True,
        norm_bias=True,
        classifier_bias=True,
        decoder_bias=False,
        classifier_activation="relu",
        hidden_activation="silu",
        norm_eps=1e-2,
        tie_word_embeddings=False,
        layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention", "full_attention"],
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": 5e4},
            "sliding_attention": {"rope_type": "default", "rope_theta": 2e3},
        },
    ),
    *(headed("ModernBERT", "ModernBert", kind, _MODERN, classifier_pooling="mean") for kind in HEADS),
    case(
        "ModernBERT",
        "label, first token",
        "ModernBertConfig",
        "ModernBertForSequenceClassification",
        {**_MODERN, "num_hidden_layers": 4, "id2label": dict(enumerate(LABELS))},
        classifier_pooling="cls",
    ),
)
