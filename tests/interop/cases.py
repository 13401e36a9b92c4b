"""Small configurations of each model family that vary every option, and weights drawn from the tensor names."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from tests.interop import (
    cases_bart,
    cases_bitnet,
    cases_decoders,
    cases_encoders,
    cases_gemma,
    cases_mamba,
    cases_moe,
    cases_qwen,
    cases_rwkv,
    cases_smollm3,
    cases_t5_encoder,
)
from tests.interop.case import HEADS, LABELS, LLAMA, PROBLEMS, T5, VOCAB, Case, case

ROWS = (10, 7)
"""Number of tokens in each row of the inputs; the rest is padding."""
TARGETS = 6


_BERT = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
_BERT |= {"intermediate_size": 48, "max_position_embeddings": 24}
_GPT = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 24}
_LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def _t5(name: str, **options: Any) -> Case:
    return case("T5", name, "T5Config", "T5ForConditionalGeneration", T5, **options)


def _long(name: str, **options: Any) -> Case:
    return case("LongT5", name, "LongT5Config", "LongT5ForConditionalGeneration", T5, local_radius=2, **options)


def _llama(name: str, **options: Any) -> Case:
    return case("LLaMA", name, "LlamaConfig", "LlamaForCausalLM", LLAMA, **options)


def _headed(family: str, kind: str, base: dict[str, Any], **options: Any) -> Case:
    labels = {} if kind == "QuestionAnswering" else {"id2label": dict(enumerate(LABELS))}
    name = f"{family}For{kind}"
    return case(_FAMILIES[family], HEADS[kind], f"{family}Config", name, base, **options, **labels)


def _problem(problem: str, labels: tuple[str, ...] = LABELS) -> Case:
    return case(
        "BERT",
        f"{PROBLEMS[problem]}, {len(labels)}",
        "BertConfig",
        "BertForSequenceClassification",
        {**_BERT, "problem_type": problem, "id2label": dict(enumerate(labels))},
    )


_FAMILIES = {"Bert": "BERT", "Roberta": "RoBERTa", "DistilBert": "DistilBERT", "Albert": "ALBERT"}
_DISTILBERT = {"vocab_size": VOCAB, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4}
_DISTILBERT |= {"max_position_embeddings": 24}

CASES = (
    _t5("1.0"),
    _t5("1.1", feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    _t5("gated SiLU, deeper decoder", feed_forward_proj="gated-silu", tie_word_embeddings=False, num_decoder_layers=3),
    _t5("GELU, epsilon, buckets", feed_forward_proj="gelu", layer_norm_epsilon=1e-2, relative_attention_num_buckets=16),
    case("umT5", "1.1", "UMT5Config", "UMT5ForConditionalGeneration", T5, feed_forward_proj="gated-gelu"),
    _long("local, as published", feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    _long(
        "transient-global, as published",
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        encoder_attention_type="transient-global",
        global_block_size=4,
    ),
    # The second row is shorter than a block.
    _long("transient-global, tied, ReLU", encoder_attention_type="transient-global", global_block_size=8),
    case("BERT", "masked LM", "BertConfig", "BertForMaskedLM", _BERT),
    case("BERT", "ReLU, epsilon", "BertConfig", "BertForMaskedLM", _BERT, hidden_act="relu", layer_norm_eps=1e-2),
    case("BERT", "untied", "BertConfig", "BertForMaskedLM", _BERT, tie_word_embeddings=False, type_vocab_size=3),
    case("RoBERTa", "masked LM", "RobertaConfig", "RobertaForMaskedLM", _BERT, type_vocab_size=1, pad_token_id=1),
    case(
        "RoBERTa",
        "ReLU",
        "RobertaConfig",
        "RobertaForMaskedLM",
        _BERT,
        hidden_act="relu",
        type_vocab_size=1,
        pad_token_id=3,
    ),
    case(
        "DistilBERT",
        "masked LM",
        "DistilBertConfig",
        "DistilBertForMaskedLM",
        _DISTILBERT,
    ),
    case(
        "DistilBERT",
        "ReLU",
        "DistilBertConfig",
        "DistilBertForMaskedLM",
        _DISTILBERT,
        activation="relu",
    ),
    case("ALBERT", "one group", "AlbertConfig", "AlbertForMaskedLM", _BERT, embedding_size=16),
    case(
        "ALBERT",
        "two groups",
        "AlbertConfig",
        "AlbertForMaskedLM",
        {**_BERT, "num_hidden_layers": 4},
        embedding_size=24,
        num_hidden_groups=2,
        hidden_act="gelu",
    ),
    case("GPT-2", "as published", "GPT2Config", "GPT2LMHeadModel", _GPT),
    case(
        "GPT-2",
        "ReLU, narrow, unscaled",
        "GPT2Config",
        "GPT2LMHeadModel",
        _GPT,
        activation_function="relu",
        n_inner=40,
        scale_attn_weights=False,
        layer_norm_epsilon=1e-2,
    ),
    case(
        "GPT-2", "untied", "GPT2Config", "GPT2LMHeadModel", _GPT, tie_word_embeddings=False, activation_function="gelu"
    ),
    _llama("2: every head its own keys", num_key_value_heads=4, rms_norm_eps=1e-2),
    _llama(
        "3: grouped, llama3 positions",
        rope_parameters={**_LLAMA3, "rope_theta": 5e5, "original_max_position_embeddings": 16},
    ),
    _llama(
        "SmolLM2: tied, linear positions",
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "linear", "factor": 3.0, "rope_theta": 1e5},
    ),
    _llama(
        "yarn positions",
        rope_parameters={"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 16},
    ),
    _llama(
        "dynamic positions",
        max_position_embeddings=6,
        rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
    ),
    _llama(
        "longrope positions",
        rope_parameters={
            **{"rope_type": "longrope", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 8},
            **{"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 3.0, 4.0, 5.0]},
        },
    ),
    _llama("biases, head size", attention_bias=True, mlp_bias=True, head_dim=6, hidden_act="gelu"),
    case("LLaMA", "Mistral: sliding window", "MistralConfig", "MistralForCausalLM", LLAMA, sliding_window=4),
    *cases_qwen.CASES,
    *cases_smollm3.CASES,
    *(_headed("Bert", kind, _BERT) for kind in HEADS),
    *(_headed("Roberta", kind, _BERT, type_vocab_size=1, pad_token_id=1) for kind in HEADS),
    *(_headed("DistilBert", kind, _DISTILBERT) for kind in HEADS),
    *(_headed("Albert", kind, _BERT, embedding_size=16) for kind in HEADS),
    _problem("multi_label_classification"),
    _problem("regression", ("LABEL_0",)),
    _problem("regression"),
    case("BERT", "base", "BertConfig", "BertModel", _BERT),
    case("BERT", "pretraining", "BertConfig", "BertForPreTraining", _BERT),
    case("BERT", "next sentence", "BertConfig", "BertForNextSentencePrediction", _BERT),
    case("ALBERT", "base", "AlbertConfig", "AlbertModel", _BERT, embedding_size=16),
    case("ALBERT", "pretraining", "AlbertConfig", "AlbertForPreTraining", _BERT, embedding_size=16),
    case("RoBERTa", "base", "RobertaConfig", "RobertaModel", _BERT, type_vocab_size=1, pad_token_id=1),
    *cases_encoders.CASES,
    *cases_bart.CASES,
    *cases_gemma.CASES,
    *cases_decoders.CASES,
    *cases_moe.CASES,
    *cases_mamba.CASES,
    *cases_rwkv.CASES,
    *cases_bitnet.CASES,
    *cases_t5_encoder.CASES,
)


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the float32 values of a tensor, the same on every machine. All tensors affect the output; scales of norms are near 1.

    T5 does not divide attention logits by sqrt(d_kv), so its query weights are initialized smaller by this factor (Raffel et al. 2020, released code).
    Without it, the softmax is so sharp that training amplifies rounding errors a thousandfold within 80 steps.
    """
    random = np.random.default_rng(zlib.crc32(name.encode()))
    value = random.standard_normal(shape, np.float32)
    if len(shape) == 1:
        scale = "norm" in name.lower() or ".ln" in name or "_ln." in name
        return (0.2 * value + (1.0 if scale and name.endswith("weight") else 0.0)).astype(np.float32)
    if "relative_attention_bias" in name:
        return value
    if name.endswith("Attention.q.weight"):
        return (value * (shape[-1] * T5["d_kv"]) ** -0.5).astype(np.float32)
    embedding = any(part in name for part in ("embed", "shared", ".wte.", ".wpe."))
    return (value * (0.5 if embedding and "mapping" not in name else shape[-1] ** -0.5)).astype(np.float32)


def inputs(one: Case) -> dict[str, np.ndarray]:
    """Return the inputs of a model: ids (padded with `pad`), mask, types and targets. The ids contain no special tokens.

    `transformers` counts padding in the losses of the routers of Switch Transformers, so their rows have none.
    """
    random = np.random.default_rng(1)
    shape = (len(ROWS), max(ROWS))
    lengths = np.full(len(ROWS), max(ROWS)) if one.family == "Switch Transformers" else np.array(ROWS)
    pad = one.options.get("pad_token_id", 0)
    mask = (np.arange(shape[1]) < lengths[:, None]).astype(np.int64)
    ids = np.where(mask, random.integers(5, VOCAB, shape), pad)
    types = random.integers(0, max(one.options.get("type_vocab_size", 2), 1), shape) * mask
    targets = random.integers(5, VOCAB, (shape[0], TARGETS))
    return {"ids": ids, "mask": mask, "types": types, "targets": targets}
