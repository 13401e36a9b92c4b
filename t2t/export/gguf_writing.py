"""Writing of GGUF files (the format of llama.cpp). Needs the package `gguf`.

Names, types and metadata are those of llama.cpp's `convert_hf_to_gguf.py`: vectors stay float32, and some tensors are converted
(`t2t.export.gguf_models`). `t2t.export.gguf` reads such files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from t2t.errors import UserError
from t2t.export.directory import flatten
from t2t.export.gguf_models import FACTORS, architecture_of
from t2t.export.gguf_options import check_options, rope_factors, write_options
from t2t.export.gguf_tokenizer_writing import add_tokenizer
from t2t.export.mapping import Tensor, write_tensor
from t2t.installing import how_to_install
from t2t.types import Params
from t2t.vocabularies import Vocabulary

TYPES = ("f16", "q8_0")
"""Types of written matrices: float16, or 8 bits with a scale for each 32 numbers of a row."""
BLOCK = 32
"""Numbers of a row that share a scale in Q8_0. A matrix with other rows stays float16."""


def check_model(options: Mapping[str, Any]) -> Any:
    """Return the module `gguf`. Raises UserError if it is not installed, or if a model cannot be written. options: those of config.json."""
    try:
        import gguf
    except ImportError:
        raise UserError(f"--format gguf needs the package gguf: {how_to_install('gguf')}") from None
    check_options(options)
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
    gguf = check_model(options)
    architecture = architecture_of(options)
    writer = gguf.GGUFWriter(str(file), architecture.name)
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if dtype == "f16" else gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    write_options(writer, architecture, options)
    notes = add_tokenizer(writer, vocabulary, options["vocab_size"])
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    flat, factors = flatten(params), rope_factors(options)
    stored = [] if factors is None else [(FACTORS, factors.shape, "f32")]
    stored += [
        (architecture.name_in_gguf(tensor.name), tensor.shape, kind_of(tensor.shape, dtype)) for tensor in wanted
    ]
    types = {kind: getattr(gguf.GGMLQuantizationType, kind.upper()) for kind in ("f32", "f16", "q8_0")}
    for stored_name, shape, kind in stored:
        block, size = gguf.GGML_QUANT_SIZES[types[kind]]
        count = int(np.prod(shape)) // block * size
        writer.add_tensor_info(stored_name, shape, np.dtype(np.float32), count, types[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors)
    for tensor in wanted:
        values = np.ascontiguousarray(write_tensor(tensor, flat), np.float32)
        values = np.ascontiguousarray(architecture.convert(tensor.name, values, options, to_gguf=True))
        with np.errstate(over="ignore"):  # `t2t.api.gguf` compares all values
            written = gguf.quants.quantize(values, types[kind_of(tensor.shape, dtype)])
        writer.write_tensor_data(written)
    writer.close()
    if kept := [tensor.name for tensor in wanted if len(tensor.shape) > 1 and kind_of(tensor.shape, dtype) != dtype]:
        notes.append(f"{kept[0]} and {len(kept) - 1} more are f16: their rows are not multiples of {BLOCK} numbers")
    return notes


def kind_of(shape: Sequence[int], dtype: str) -> str:
    """Return the type in which a tensor is written: vectors are "f32"."""
    if len(shape) < 2:
        return "f32"
    return "f16" if shape[-1] % BLOCK else dtype


def bound(values: np.ndarray, kind: str, offset: float = 0.0) -> np.ndarray:
    """Return the largest difference that rounding to a type causes, for each number.

    offset: what is added to a vector before it is written ("f32"), and subtracted after it is read.
    "f16": half of the last of its 11 bits, or of the smallest number. "q8_0": half of a step, 1/127 of the largest number of the block; its scale is
    rounded to float16.
    """
    smallest = 2.0**-25
    size = np.abs(values.astype(np.float64))
    if kind == "f32":
        return (size + 1.0) * 2.0**-23 if offset else np.zeros_like(size)
    if kind == "f16":
        return np.maximum(size * 2.0**-11, smallest)
    largest = size.reshape(-1, BLOCK).max(axis=1, keepdims=True)
    # A little more than half of a step: the quotient is computed in float32.
    step = largest * (0.5001 / 127) + 127 * np.maximum(largest / 127 * 2.0**-11, smallest)
    return np.broadcast_to(step, (len(step), BLOCK)).reshape(size.shape)
