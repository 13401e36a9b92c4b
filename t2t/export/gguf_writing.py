"""Writing of GGUF files (the format of llama.cpp) for models like LLaMA with a byte-level BPE. Needs the package `gguf`.

Names, types and metadata are those of llama.cpp's `convert_hf_to_gguf.py`: vectors stay float32, and the rows of the query and key matrices
interleave the rotary pairs (see `t2t.export.gguf`, which reads such files).
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from t2t.errors import UserError
from t2t.export.directory import flatten
from t2t.export.gguf import NAMES
from t2t.export.gguf_tokenizer import CONTROL, NORMAL, PRE, UNUSED, USER_DEFINED
from t2t.export.mapping import Tensor, write_tensor
from t2t.export.tokenizer_json import library_of
from t2t.installing import how_to_install
from t2t.nn.rotary import shuffled
from t2t.types import Params
from t2t.vocabularies import Tokenizer, Vocabulary

TYPES = ("f16", "q8_0")
"""Types of written matrices: float16, or 8 bits with a scale for each 32 numbers of a row."""
BLOCK = 32
"""Numbers of a row that share a scale in Q8_0. A matrix with other rows stays float16."""
_ELSE = "use convert_hf_to_gguf.py of llama.cpp on the output of --format huggingface"


def check_options(options: Mapping[str, Any]) -> Any:
    """Return the module `gguf`. Raises UserError if it is not installed, or if a model cannot be written. options: those of config.json."""
    try:
        import gguf
    except ImportError:
        raise UserError(f"--format gguf needs the package gguf: {how_to_install('gguf')}") from None
    wanted = {"model_type": "llama", "hidden_act": "silu", "rope_scaling": None}
    for name, value in wanted.items():
        if options.get(name) != value:
            shown = options.get(name)
            raise UserError(
                f"--format gguf: {name} is {shown!r:.80}, and only {value!r} (LLaMA, SmolLM2) is supported; {_ELSE}"
            )
    return gguf


def write_gguf(
    file: Path,
    params: Params,
    options: Mapping[str, Any],
    wanted: Sequence[Tensor],
    vocabulary: Vocabulary,
    *,
    dtype: str,
    name: str,
    chat_template: str | None = None,
) -> list[str]:
    """Write one file, one tensor at a time. Return notes on what the file does not store.

    options, wanted: from `t2t.models.families.exportable`.
    dtype: one of `TYPES`.
    name: the model's name in the file.

    Raises UserError if `gguf` is not installed, or if the model or the vocabulary is not supported.
    """
    gguf = check_options(options)
    half, quantized = gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.Q8_0
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if dtype == "f16" else gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(options["vocab_size"])
    writer.add_context_length(options["max_position_embeddings"])
    writer.add_embedding_length(options["hidden_size"])
    writer.add_block_count(options["num_hidden_layers"])
    writer.add_feed_forward_length(options["intermediate_size"])
    writer.add_head_count(options["num_attention_heads"])
    writer.add_head_count_kv(options["num_key_value_heads"])
    writer.add_key_length(options["head_dim"])
    writer.add_value_length(options["head_dim"])
    writer.add_rope_dimension_count(options["head_dim"])
    writer.add_rope_freq_base(options["rope_theta"])
    writer.add_layer_norm_rms_eps(options["rms_norm_eps"])
    notes = _add_tokenizer(writer, vocabulary, options["vocab_size"])
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    kinds = {tensor.name: kind_of(tensor.shape, dtype) for tensor in wanted}
    types = {"f32": gguf.GGMLQuantizationType.F32, "f16": half, "q8_0": quantized}
    for tensor in wanted:
        block, size = gguf.GGML_QUANT_SIZES[types[kinds[tensor.name]]]
        count = int(np.prod(tensor.shape)) // block * size
        writer.add_tensor_info(_name(tensor.name), tensor.shape, np.dtype(np.float32), count, types[kinds[tensor.name]])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    heads = {"q_proj": options["num_attention_heads"], "k_proj": options["num_key_value_heads"]}
    flat = flatten(params)
    for tensor in wanted:
        values = np.ascontiguousarray(write_tensor(tensor, flat), np.float32)
        part = tensor.name.split(".")[-2]
        values = shuffled(values, heads[part], to_halves=False) if part in heads else values
        with np.errstate(over="ignore"):  # `t2t.api.gguf` compares all values
            written = gguf.quants.quantize(np.ascontiguousarray(values), types[kinds[tensor.name]])
        writer.write_tensor_data(written)
    writer.close()
    if kept := [tensor.name for tensor in wanted if len(tensor.shape) > 1 and kinds[tensor.name] != dtype]:
        notes.append(f"{kept[0]} and {len(kept) - 1} more are f16: their rows are not multiples of {BLOCK} numbers")
    return notes


def kind_of(shape: Sequence[int], dtype: str) -> str:
    """Return the type in which a tensor is written: vectors are "f32"."""
    if len(shape) < 2:
        return "f32"
    return "f16" if shape[-1] % BLOCK else dtype


def bound(values: np.ndarray, kind: str) -> np.ndarray:
    """Return the largest difference that rounding to a type causes, for each number.

    "f16": half of the last of its 11 bits, or of the smallest number. "q8_0": half of a step, 1/127 of the largest number of the block; its scale is
    rounded to float16.
    """
    smallest = 2.0**-25
    size = np.abs(values.astype(np.float64))
    if kind == "f32":
        return np.zeros_like(size)
    if kind == "f16":
        return np.maximum(size * 2.0**-11, smallest)
    largest = size.reshape(-1, BLOCK).max(axis=1, keepdims=True)
    # A little more than half of a step: the quotient is computed in float32.
    step = largest * (0.5001 / 127) + 127 * np.maximum(largest / 127 * 2.0**-11, smallest)
    return np.broadcast_to(step, (len(step), BLOCK)).reshape(size.shape)


def _name(theirs: str) -> str:
    """Return the name in GGUF of a tensor of transformers."""
    found = re.fullmatch(r"(?:model\.layers\.(\d+)\.)?(.+)\.(weight|bias)", theirs)
    assert found is not None, theirs
    part = {published: short for short, published in NAMES.items()}[found[2]]
    return f"{'' if found[1] is None else f'blk.{found[1]}.'}{part}.{found[3]}"


def _add_tokenizer(writer: Any, vocabulary: Vocabulary, rows: int) -> list[str]:
    """Add the tokens, merges and special tokens. Return notes on what is not stored. rows: of the embedding; rows without a token get unused ones."""
    if not isinstance(vocabulary, Tokenizer):
        raise UserError(f"--format gguf: a vocabulary {type(vocabulary).__name__} is not byte-level BPE; {_ELSE}")
    library = library_of(vocabulary)
    content = json.loads(library.to_str())
    pre = _pre(content)
    added = library.get_added_tokens_decoder()
    names = {number: token for token, number in library.get_vocab(with_added_tokens=True).items()}
    taken = set(names.values())
    unused = (name for i in itertools.count() if (name := f"[PAD{i}]") not in taken)
    tokens = [names[i] if i in names else next(unused) for i in range(rows)]
    kinds = [
        (CONTROL if added[i].special else USER_DEFINED) if i in added else NORMAL if i in names else UNUSED
        for i in range(rows)
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    merges = content["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    for role in ("bos", "unk", "pad"):
        token = getattr(vocabulary, role)
        if token is not None:
            getattr(writer, f"add_{role}_token_id")(library.token_to_id(token))
    first, *others = vocabulary.end_ids
    writer.add_eos_token_id(first)
    for number, add in zip(others, (writer.add_eot_token_id, writer.add_eom_token_id), strict=False):
        add(number)
    writer.add_add_bos_token(vocabulary.prepends_bos)
    writer.add_add_eos_token(False)
    return [f"GGUF has no place for the end ids {others[2:]}"] if others[2:] else []


def _pre(content: Mapping[str, Any]) -> str:
    """Return llama.cpp's name of the pre-tokenizer of a tokenizer.json. Raises UserError if it is not supported."""
    model, pre = content["model"], content["pre_tokenizer"] or {}
    parts = pre.get("pretokenizers", [pre])
    digits = len(parts) == 2 and parts[0] == {"type": "Digits", "individual_digits": True}
    last = parts[-1]
    bytes_ = last.get("type") == "ByteLevel" and not last.get("add_prefix_space") and last.get("use_regex", True)
    plain = not any(
        model.get(name)
        for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges")
    )
    known = bytes_ and len(parts) == 1 + digits and content["normalizer"] is None
    if model["type"] != "BPE" or not plain or not known:
        raise UserError(
            f"--format gguf: the tokenizer is not byte-level BPE split as in GPT-2 or SmolLM2 ({', '.join(PRE)}); {_ELSE}"
        )
    return next(name for name, individual in PRE.items() if individual == digits)
