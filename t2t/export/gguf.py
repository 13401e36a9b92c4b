"""Conversion of GGUF files (the format of llama.cpp) to `transformers` directories. Needs the package `gguf`.

Quantized tensors are converted to float32, and to the order of rows and the scales of norms that `transformers` uses (`t2t.export.gguf_models`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from t2t.errors import UserError
from t2t.export.directory import write_json
from t2t.export.gguf_header import check_header
from t2t.export.gguf_models import FACTORS
from t2t.export.gguf_options import llama3_scaling, read_options
from t2t.export.gguf_tokenizer import write_tokenizer
from t2t.export.tensor_files import write_tensors
from t2t.installing import how_to_install


def gguf_directory(file: Path, out: Path) -> None:
    """Write config.json, model.safetensors (float32) and tokenizer files for a GGUF file to `out`.

    Raises UserError if `gguf` is not installed, or if the model, a tensor or the tokenizer is not supported.
    """
    try:
        from gguf import GGML_QUANT_SIZES, GGUFReader
        from gguf.quants import dequantize
    except ImportError:
        raise UserError(f"{file}: reading GGUF needs the package gguf: {how_to_install('gguf')}") from None
    check_header(file, {int(kind): sizes for kind, sizes in GGML_QUANT_SIZES.items()})
    try:
        reader = GGUFReader(file)
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise UserError(f"{file}: not a GGUF file ({error})") from None
    architecture, options = read_options(fields, {tensor.name for tensor in reader.tensors}, str(file))

    def values_of(tensor: Any) -> np.ndarray:
        try:
            values: np.ndarray = dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            raise UserError(
                f"{file}: {tensor.name} has type {tensor.tensor_type.name}, which is not supported"
            ) from None
        return values.astype(np.float32)

    by_name: dict[str, Any] = {}
    for tensor in reader.tensors:
        if tensor.name == FACTORS and architecture.factors:
            options["rope_scaling"] = llama3_scaling(values_of(tensor), options, str(file))
        else:
            by_name[architecture.name_in_transformers(tensor.name, str(file))] = tensor

    def make(name: str) -> np.ndarray:
        return architecture.convert(name, values_of(by_name[name]), options, to_gguf=False)

    _check_rows(by_name, options, str(file))
    shapes = [(name, tuple(int(n) for n in reversed(tensor.shape))) for name, tensor in by_name.items()]
    write_tensors(out, shapes, make)
    write_json(out / "config.json", options)
    write_tokenizer(fields, out, str(file))


def _check_rows(tensors: Mapping[str, Any], options: dict[str, Any], where: str) -> None:
    """Raise UserError if the sizes of the configuration do not match queries and keys, whose rows they reorder."""
    dimension = options["head_dim"]
    rows = {"q_proj": options["num_attention_heads"] * dimension, "k_proj": options["num_key_value_heads"] * dimension}
    for name, tensor in tensors.items():
        wanted, found = rows.get(name.split(".")[-2]), int(tensor.shape[-1])
        if wanted is not None and found != wanted:
            raise UserError(
                f"{where}: {tensor.name} has {found} rows; attention.head_count(_kv) and rope.dimension_count give {wanted}"
            )
