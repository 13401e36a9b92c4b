"""Directories of `sentence-transformers` as they were published, with smaller sizes and weights drawn from the names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from tests.interop.cases import CASES, weight
from tests.interop.goldens import write_directory

FILE = Path(__file__).parent / "sentence.json"
"""The vectors that `tests.interop.sentence` computes: name of the model -> vectors of TEXTS."""
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
_ROLES = {
    "BERT": {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
    "MPNet": {
        "cls": "<s>",
        "pad": "<pad>",
        "sep": "</s>",
        "unk": "[UNK]",
        "mask": "<mask>",
        "bos": "<s>",
        "eos": "</s>",
    },
}
"""The special tokens of each family, in the order of their ids."""
TEXTS = ["the quick brown fox", "A lazy DOG jumps over the foxs .", "again", "", "unknown words, one two three"]
LONG = "the quick brown fox jumps over a lazy dog again and again and again"
"""A text with more tokens than `max_seq_length` of MiniLM."""
_CASES = {
    family: next(case for case in CASES if case.name == name)
    for family, name in (
        ("BERT", "BERT masked LM"),
        ("MPNet", "MPNet masked LM"),
        ("T5", "T5 encoder, gated, as published"),
    )
}
_PREFIXES = {"BERT": "bert.", "MPNet": "mpnet.", "T5": ""}
_COMMON = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "transformers_version": "4.8.2",
    "vocab_size": 96,
}
_OPTIONS = {
    "BERT": {
        **_COMMON,
        "_name_or_path": "nreimers/MiniLM-L6-H384-uncased",
        "architectures": ["BertModel"],
        "classifier_dropout": None,
        "gradient_checkpointing": False,
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 24,
        "model_type": "bert",
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "torch_dtype": "float32",
        "type_vocab_size": 2,
        "use_cache": True,
    },
    "MPNet": {
        **_COMMON,
        "_name_or_path": "microsoft/mpnet-base",
        "architectures": ["MPNetForMaskedLM"],
        "bos_token_id": 0,
        "eos_token_id": 2,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 26,
        "model_type": "mpnet",
        "pad_token_id": 1,
        "relative_attention_num_buckets": 32,
    },
    "T5": {
        "_name_or_path": "models/sentence-t5-base",
        "architectures": ["T5EncoderModel"],
        "d_ff": 48,
        "d_kv": 8,
        "d_model": 32,
        "decoder_start_token_id": 0,
        "dropout_rate": 0.1,
        "eos_token_id": 1,
        "feed_forward_proj": "gated-gelu",
        "gradient_checkpointing": False,
        "initializer_factor": 1.0,
        "is_encoder_decoder": True,
        "layer_norm_epsilon": 1e-06,
        "model_type": "t5",
        "n_positions": 512,
        "num_decoder_layers": 2,
        "num_heads": 3,
        "num_layers": 2,
        "output_past": True,
        "pad_token_id": 0,
        "relative_attention_max_distance": 12,
        "relative_attention_num_buckets": 8,
        "transformers_version": "4.11.3",
        "use_cache": True,
        "vocab_size": 96,
    },
}
_TANH, _IDENTITY = "torch.nn.modules.activation.Tanh", "torch.nn.modules.linear.Identity"
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
    "all-mpnet-base-v2": {
        "family": "MPNet",
        "pooling": "mean_tokens",
        "normalize": True,
        "length": 20,
        "lower": False,
        "flags": _FLAGS[:4],
    },
    "LaBSE": {
        "pooling": "cls_token",
        "dense": {"in_features": 32, "out_features": 32, "bias": True, "activation_function": _TANH},
        "normalize": True,
        "length": 24,
        "lower": False,
        "flags": _FLAGS[:4],
    },
    "sentence-t5-base": {
        "family": "T5",
        "pooling": "mean_tokens",
        "dense": {"in_features": 32, "out_features": 24, "bias": False, "activation_function": _IDENTITY},
        "normalize": True,
        "length": 24,
        "lower": False,
        "flags": _FLAGS[:4],
    },
    "SGPT pooling": {
        "pooling": "weightedmean_tokens",
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
    family = about.get("family", "BERT")
    write_directory(_CASES[family], directory, prefix=_PREFIXES[family])
    _dump(directory / "config.json", _OPTIONS[family])
    if family == "T5":
        _write_pieces(directory)
    else:
        _with_more_tensors(directory)
        _write_tokenizer(directory, family)
    dense = about.get("dense")
    modules = ["Transformer", "Pooling", *(["Dense"] if dense else []), *(["Normalize"] if about["normalize"] else [])]
    table = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(modules)
    ]
    _dump(directory / "modules.json", table)
    _dump(directory / "sentence_bert_config.json", {"max_seq_length": about["length"], "do_lower_case": about["lower"]})
    _dump(directory / "config_sentence_transformers.json", {"__version__": _VERSIONS})
    flags = {f"pooling_mode_{flag}": flag == about["pooling"] for flag in about["flags"]}
    (directory / "1_Pooling").mkdir()
    _dump(directory / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, **flags})
    if dense:
        (directory / "2_Dense").mkdir()
        _dump(directory / "2_Dense" / "config.json", dense)
        shape = (dense["out_features"], dense["in_features"])
        parts = {"linear.weight": shape, **({"linear.bias": shape[:1]} if dense["bias"] else {})}
        layer = {part: weight(f"{name} {part}", size) for part, size in parts.items()}
        save_file(layer, directory / "2_Dense" / "model.safetensors")


def _with_more_tensors(directory: Path) -> None:
    """Remove the head, and add a pooler and positions, as published."""
    heads = ("cls.", "lm_head.")
    tensors = {key: x for key, x in load_file(directory / "model.safetensors").items() if not key.startswith(heads)}
    tensors |= {
        f"pooler.dense.{part}": weight(f"pooler.dense.{part}", (32, 32)[: 2 - i])
        for i, part in enumerate(("weight", "bias"))
    }
    tensors["embeddings.position_ids"] = np.arange(24)[None]
    save_file(tensors, directory / "model.safetensors")


def _write_pieces(directory: Path) -> None:
    """Write the tokenizer.json of a T5: pieces that begin with a space, and `</s>` after each text."""
    pieces = ["<pad>", "</s>", "<unk>", *(f"▁{word}" for word in _WORDS if word[0] != "#"), "s", "A", "DOG", "▁"]
    made = Tokenizer(models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], unk_id=2))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.add_special_tokens(pieces[:3])
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    made.save(str(directory / "tokenizer.json"))
    tokens = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512}
    _dump(directory / "tokenizer_config.json", {**settings, **tokens})
    _dump(directory / "special_tokens_map.json", tokens)


def _write_tokenizer(directory: Path, family: str) -> None:
    """Write vocab.txt, and a tokenizer.json that truncates and pads every text, as published."""
    roles = _ROLES[family]
    special = list(dict.fromkeys(roles.values()))
    words = [*special, *_WORDS]
    words += [f"[unused{i}]" for i in range(96 - len(words))]
    (directory / "vocab.txt").write_text("\n".join(words) + "\n")
    made = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(special)
    sep, cls = ((roles[role], words.index(roles[role])) for role in ("sep", "cls"))
    if family == "BERT":
        made.post_processor = processors.BertProcessing(sep, cls)
    else:
        made.post_processor = processors.RobertaProcessing(sep, cls, trim_offsets=True, add_prefix_space=False)
    made.enable_truncation(128)
    made.enable_padding(length=128, pad_id=words.index(roles["pad"]), pad_token=roles["pad"])
    made.save(str(directory / "tokenizer.json"))
    tokens = {f"{role}_token": token for role, token in roles.items()}
    settings = {
        "do_lower_case": True,
        "model_max_length": 512,
        "tokenizer_class": "BertTokenizer" if family == "BERT" else "MPNetTokenizer",
    }
    _dump(directory / "tokenizer_config.json", {**settings, **tokens})
    _dump(directory / "special_tokens_map.json", tokens)


def _dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))
