"""Directories of `sentence-transformers` as they were published, with smaller sizes and weights drawn from the names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from tests.interop.cases import CASES, weight
from tests.interop.goldens import write_directory

FILE = Path(__file__).parent / "sentence.json"
"""The vectors that `tests.interop.sentence` computes: name of the model -> vectors of TEXTS."""
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "##s",
    ",",
    ".",
    "again",
    "and",
    "one",
    "two",
    "three",
]
WORDS = [*_SPECIAL, *_WORDS, *(f"[unused{i}]" for i in range(96 - len(_SPECIAL) - len(_WORDS)))]
TEXTS = ["the quick brown fox", "A lazy DOG jumps over the foxs .", "again", "", "unknown words, one two three"]
LONG = "the quick brown fox jumps over a lazy dog again and again and again"
"""A text with more tokens than `max_seq_length` of MiniLM."""
_BERT = next(case for case in CASES if case.name == "BERT masked LM")
_OPTIONS = {
    "_name_or_path": "nreimers/MiniLM-L6-H384-uncased",
    "architectures": ["BertModel"],
    "attention_probs_dropout_prob": 0.1,
    "classifier_dropout": None,
    "gradient_checkpointing": False,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 32,
    "id2label": {"0": "LABEL_0"},
    "label2id": {"LABEL_0": 0},
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 24,
    "model_type": "bert",
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "torch_dtype": "float32",
    "transformers_version": "4.8.2",
    "type_vocab_size": 2,
    "use_cache": True,
    "vocab_size": 96,
}
_FLAGS = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
_VERSIONS = {"sentence_transformers": "2.0.0", "transformers": "4.6.1", "pytorch": "1.8.1"}
MODELS: dict[str, dict[str, Any]] = {
    "all-MiniLM-L6-v2": {
        "pooling": "mean_tokens",
        "normalize": True,
        "length": 12,
        "lower": False,
        "flags": _FLAGS[:4],
    },
    "bge-small-en-v1.5": {"pooling": "cls_token", "normalize": True, "length": 24, "lower": True, "flags": _FLAGS[:4]},
    "bert-base-nli-max-tokens": {
        "pooling": "max_tokens",
        "normalize": False,
        "length": 24,
        "lower": False,
        "flags": _FLAGS,
    },
}
"""Published models: the kinds of pooling, and what their files have."""


def write(name: str, directory: Path) -> None:
    """Write a model's directory."""
    about = MODELS[name]
    write_directory(_BERT, directory, prefix="bert.")
    (directory / "config.json").write_text(json.dumps(_OPTIONS))
    tensors = {key: x for key, x in load_file(directory / "model.safetensors").items() if not key.startswith("cls.")}
    tensors |= {
        f"pooler.dense.{part}": weight(f"pooler.dense.{part}", (32, 32)[: 2 - i])
        for i, part in enumerate(("weight", "bias"))
    }
    tensors["embeddings.position_ids"] = np.arange(24)[None]
    save_file(tensors, directory / "model.safetensors")
    _write_tokenizer(directory)
    modules = ["", "1_Pooling", *(["2_Normalize"] if about["normalize"] else [])]
    types = ["Transformer", "Pooling", "Normalize"]
    table = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{types[i]}"}
        for i, path in enumerate(modules)
    ]
    _dump(directory / "modules.json", table)
    _dump(directory / "sentence_bert_config.json", {"max_seq_length": about["length"], "do_lower_case": about["lower"]})
    _dump(directory / "config_sentence_transformers.json", {"__version__": _VERSIONS})
    flags = {f"pooling_mode_{flag}": flag == about["pooling"] for flag in about["flags"]}
    (directory / "1_Pooling").mkdir()
    _dump(directory / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, **flags})


def _write_tokenizer(directory: Path) -> None:
    """Write vocab.txt, and a tokenizer.json that truncates and pads every text, as published."""
    (directory / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    made = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(_SPECIAL)
    ends = [(token, WORDS.index(token)) for token in ("[SEP]", "[CLS]")]
    made.post_processor = processors.BertProcessing(*ends)
    made.enable_truncation(128)
    made.enable_padding(length=128)
    made.save(str(directory / "tokenizer.json"))
    roles = {
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    }
    settings = {"do_lower_case": True, "model_max_length": 512, "tokenizer_class": "BertTokenizer"}
    _dump(directory / "tokenizer_config.json", {**settings, **roles})
    _dump(directory / "special_tokens_map.json", roles)


def _dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))
