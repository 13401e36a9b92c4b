"""Cases of encoders: XLM-RoBERTa, ModernBERT, EuroBERT, MPNet, ELECTRA, DeBERTa."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tests.interop.case import HEADS, LABELS, LLAMA, VOCAB, Case, case

_MODERN = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 5, "num_attention_heads": 4}
_MODERN |= {"intermediate_size": 24, "max_position_embeddings": 64, "pad_token_id": 0, "local_attention": 6}
_EURO = {**LLAMA, "pad_token_id": 0}
_EURO_BIASED = {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4, "rms_norm_eps": 1e-2}
_MPNET = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
_MPNET |= {"intermediate_size": 48, "max_position_embeddings": 26, "pad_token_id": 1, "layer_norm_eps": 1e-5}
_XLM = {"XLMRoberta": "XLM-RoBERTa", "XLMRobertaXL": "XLM-RoBERTa-XL"}
_XLM_SIZES = {**_MPNET, "type_vocab_size": 1}
_ELECTRA = {**_MPNET, "max_position_embeddings": 24, "pad_token_id": 0, "layer_norm_eps": 1e-12, "embedding_size": 16}
_WIDE = {"embedding_size": 32, "layer_norm_eps": 1e-2}
# DeBERTa v3 as published, with buckets of several distances among the ten tokens of a row.
_DEBERTA = {**_MPNET, "max_position_embeddings": 24, "pad_token_id": 0, "layer_norm_eps": 1e-7, "type_vocab_size": 0}
_DEBERTA |= {
    "relative_attention": True,
    "position_biased_input": False,
    "pos_att_type": "p2c|c2p",
    "position_buckets": 8,
}
_DEBERTA |= {"share_att_key": True, "norm_rel_ebd": "layer_norm"}
_UNTIED = {"tie_word_embeddings": False, "layer_norm_eps": 1e-2}


def headed(family: str, model: str, kind: str, base: dict[str, Any], **options: Any) -> Case:
    """Return the case of a head. model: prefix of the names of the family's classes."""
    labels = {} if kind == "QuestionAnswering" else {"id2label": dict(enumerate(LABELS))}
    return case(family, HEADS[kind], f"{model}Config", f"{model}For{kind}", base, **options, **labels)


def _modern(name: str, **options: Any) -> Case:
    return case("ModernBERT", name, "ModernBertConfig", "ModernBertForMaskedLM", _MODERN, **options)


def _deberta(name: str, exported: str = "", **options: Any) -> Case:
    made = case("DeBERTa", name, "DebertaV2Config", "DebertaV2ForMaskedLM", _DEBERTA, **options)
    return replace(made, exported=exported)


def _euro(name: str, **options: Any) -> Case:
    return case("EuroBERT", name, "EuroBertConfig", "EuroBertForMaskedLM", _EURO, **options)


def _xlm(model: str, base: dict[str, Any], *heads: str) -> Iterator[Case]:
    """Yield the cases of a family with the masked-LM head and with `heads`. model: prefix of the names of its classes."""
    family = _XLM[model]
    yield case(family, "masked LM", f"{model}Config", f"{model}ForMaskedLM", base)
    yield from (headed(family, model, kind, base) for kind in heads)


CASES: tuple[Case, ...] = (
    *(replace(one, exported="roberta") for one in _xlm("XLMRoberta", _XLM_SIZES, "SequenceClassification")),
    *_xlm("XLMRobertaXL", {**_XLM_SIZES, "num_hidden_layers": 2, "hidden_act": "relu"}, *HEADS),
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
        "numbers",
        "ModernBertConfig",
        "ModernBertForSequenceClassification",
        {**_MODERN, "num_hidden_layers": 4, "id2label": dict(enumerate(LABELS))},
        problem_type="regression",
    ),
    case(
        "ModernBERT",
        "label, first token",
        "ModernBertConfig",
        "ModernBertForSequenceClassification",
        {**_MODERN, "num_hidden_layers": 4, "id2label": dict(enumerate(LABELS))},
        classifier_pooling="cls",
    ),
    _euro("masked LM", rope_parameters={"rope_type": "default", "rope_theta": 250000.0}),
    _euro(
        "biases, tied, linear positions",
        **_EURO_BIASED,
        hidden_act="gelu",
        head_dim=6,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4},
    ),
    headed("EuroBERT", "EuroBert", "SequenceClassification", _EURO),
    headed("EuroBERT", "EuroBert", "TokenClassification", _EURO),
    case(
        "EuroBERT",
        "labels",
        "EuroBertConfig",
        "EuroBertForSequenceClassification",
        {**_EURO, "id2label": dict(enumerate(LABELS))},
        problem_type="multi_label_classification",
    ),
    *(
        case(
            "EuroBERT",
            name,
            "EuroBertConfig",
            "EuroBertForSequenceClassification",
            {**_EURO, "id2label": dict(enumerate(LABELS))},
            **_EURO_BIASED,
            classifier_pooling=pooling,
        )
        for name, pooling in (("label, mean", "mean"), ("label, first token", "bos"))
    ),
    case("MPNet", "masked LM", "MPNetConfig", "MPNetForMaskedLM", _MPNET),
    case(
        "MPNet",
        "untied, ReLU",
        "MPNetConfig",
        "MPNetForMaskedLM",
        _MPNET,
        hidden_act="relu",
        layer_norm_eps=1e-2,
        tie_word_embeddings=False,
    ),
    *(headed("MPNet", "MPNet", kind, _MPNET) for kind in HEADS),
    case("MPNet", "base", "MPNetConfig", "MPNetModel", _MPNET),
    *(
        case("ELECTRA", name, "ElectraConfig", model, _ELECTRA, **options)
        for name, model, options in (
            ("discriminator", "ElectraForPreTraining", {}),
            ("discriminator, wide, ReLU", "ElectraForPreTraining", {**_WIDE, "hidden_act": "relu"}),
            ("generator", "ElectraForMaskedLM", {}),
            ("generator, untied, ReLU", "ElectraForMaskedLM", {**_UNTIED, "hidden_act": "relu"}),
        )
    ),
    *(headed("ELECTRA", "Electra", kind, _ELECTRA) for kind in HEADS),
    case("ELECTRA", "base", "ElectraConfig", "ElectraModel", _ELECTRA),
    case(
        "ELECTRA",
        "label, wide",
        "ElectraConfig",
        "ElectraForSequenceClassification",
        {**_ELECTRA, **_WIDE, "id2label": dict(enumerate(LABELS))},
    ),
    _deberta("v3 masked LM"),
    # Exported with the names of the legacy head, which computes the same.
    _deberta("v3 later head", "deberta-v2", legacy=False, pos_att_type="p2c", share_att_key=False),
    _deberta("v2 convolution", conv_kernel_size=3, conv_act="gelu"),
    _deberta(
        "other options",
        share_att_key=False,
        position_buckets=-1,
        max_relative_positions=6,
        norm_rel_ebd="none",
        position_biased_input=True,
        type_vocab_size=2,
        embedding_size=16,
        conv_kernel_size=5,
        layer_norm_eps=1e-2,
    ),
    _deberta(
        "content to position, untied, ReLU",
        pos_att_type="c2p",
        tie_word_embeddings=False,
        hidden_act="relu",
        layer_norm_eps=1e-2,
    ),
    *(headed("DeBERTa", "DebertaV2", kind, _DEBERTA) for kind in HEADS),
)
