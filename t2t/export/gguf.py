"""Conversion of GGUF files (the format of llama.cpp) of LLaMA-family models to `transformers` directories. Needs the package `gguf`.

Quantised tensors are converted to float32. GGUF interleaves the rotary pairs in the rows of the query and key matrices; here the two elements of
a pair are half a head apart, as in `transformers`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from t2t.errors import UserError
from t2t.export.directory import write_json
from t2t.export.family import LARGEST
from t2t.export.gguf_header import check_header
from t2t.export.gguf_tokenizer import id_of, tokens_of, write_tokenizer
from t2t.export.tensor_files import write_tensors
from t2t.installing import how_to_install
from t2t.nn.rotary import shuffled

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Names of tensors in GGUF -> in `transformers`, without "blk.N." and "model.layers.N."."""
_LEFT_OUT = {"rope_freqs.weight": "computed from the options"}


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
    architecture = fields.get("general.architecture")
    if architecture != "llama":
        raise UserError(f"{file}: general.architecture is {architecture!r}; only llama is supported")
    options = _options(fields, {tensor.name for tensor in reader.tensors}, str(file))
    heads = {"attn_q": options["num_attention_heads"], "attn_k": options["num_key_value_heads"]}
    by_name: dict[str, Any] = {}
    for tensor in reader.tensors:
        if tensor.name not in _LEFT_OUT:
            by_name[_name(tensor.name, str(file))] = tensor

    def make(name: str) -> np.ndarray:
        tensor = by_name[name]
        try:
            values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        except NotImplementedError:
            raise UserError(
                f"{file}: {tensor.name} has type {tensor.tensor_type.name}, which is not supported"
            ) from None
        part = tensor.name.split(".")[-2]
        return shuffled(values, heads[part], to_halves=True) if part in heads else values

    _check_sizes(by_name, options, str(file))
    shapes = [(name, tuple(int(n) for n in reversed(tensor.shape))) for name, tensor in by_name.items()]
    write_tensors(out, shapes, make)
    write_json(out / "config.json", options)
    write_tokenizer(fields, out, str(file))


def _options(fields: dict[str, Any], names: set[str], where: str) -> dict[str, Any]:
    def take(name: str, default: Any = None) -> Any:
        value = fields.get(f"llama.{name}", default)
        if value is None:
            raise UserError(f"{where}: llama.{name} is missing")
        return value

    def size(name: str, default: Any = None) -> int:
        value = take(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LARGEST:
            raise UserError(f"{where}: llama.{name} is {str(value)[:80]}; expected an integer from 1 to {LARGEST}")
        return value

    def number(name: str, default: Any = None) -> float:
        value = take(name, default)
        if not isinstance(value, float) or not 0 < value < float("inf"):
            raise UserError(f"{where}: llama.{name} is {str(value)[:80]}; expected a number above 0")
        return value

    if kind := fields.get("llama.rope.scaling.type"):
        raise UserError(f"{where}: llama.rope.scaling.type is {kind!r}; only plain rotary positions are supported")
    heads, embed = size("attention.head_count"), size("embedding_length")
    groups = size("attention.head_count_kv", heads)
    if embed % heads and "llama.rope.dimension_count" not in fields:
        raise UserError(
            f"{where}: llama.embedding_length {embed} is not a multiple of llama.attention.head_count {heads}"
        )
    if heads % groups:
        raise UserError(f"{where}: llama.attention.head_count {heads} is not a multiple of head_count_kv {groups}")
    tokens = len(tokens_of(fields, where))
    ends = [found for end in ("eos", "eot", "eom") if (found := id_of(fields, end, tokens, where)) is not None]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": tokens,
        "hidden_size": embed,
        "num_hidden_layers": size("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "head_dim": size("rope.dimension_count", embed // heads),
        "intermediate_size": size("feed_forward_length"),
        "hidden_act": "silu",
        "max_position_embeddings": size("context_length"),
        # GGUF stores it as float32: use the shortest decimal number that rounds to the same float32.
        "rms_norm_eps": float(str(np.float32(number("attention.layer_norm_rms_epsilon")))),
        "rope_theta": number("rope.freq_base", 10_000.0),
        "tie_word_embeddings": "output.weight" not in names,
        "attention_bias": "blk.0.attn_q.bias" in names,
        "mlp_bias": "blk.0.ffn_gate.bias" in names,
        **{
            theirs: found
            for ours, theirs in (("bos", "bos_token_id"), ("padding", "pad_token_id"))
            if (found := id_of(fields, ours, tokens, where)) is not None
        },
        # llama.cpp stops at the end of a text, of a turn or of a message.
        "eos_token_id": ends,
    }


def _check_sizes(tensors: Mapping[str, Any], options: dict[str, Any], where: str) -> None:
    """Raise UserError if the sizes of the configuration do not match the tensors: they are used to reshape queries and keys."""
    dimension = options["head_dim"]
    if dimension % 2:
        raise UserError(f"{where}: llama.rope.dimension_count is {dimension}; rotary positions need an even number")
    rows = {"q_proj": options["num_attention_heads"] * dimension, "k_proj": options["num_key_value_heads"] * dimension}
    layers = set()
    for name, tensor in tensors.items():
        if found := re.match(r"model\.layers\.(\d+)\.(?:self_attn\.(q_proj|k_proj))?", name):
            layers.add(int(found[1]))
            shape = [int(n) for n in reversed(tensor.shape)]
            if found[2] and shape[0] != rows[found[2]]:
                raise UserError(
                    f"{where}: {tensor.name} has {shape[0]} rows; llama.attention.head_count(_kv) and rope.dimension_count give {rows[found[2]]}"
                )
    if max(layers, default=-1) + 1 != options["num_hidden_layers"]:
        raise UserError(
            f"{where}: llama.block_count is {options['num_hidden_layers']}, but there are {len(layers)} blocks of tensors"
        )


def _name(theirs: str, where: str) -> str:
    found = re.fullmatch(r"(?:blk\.(\d+)\.)?([a-z_]+)\.(weight|bias)", theirs)
    if found is None or found[2] not in NAMES:
        raise UserError(f"{where}: unknown tensor {theirs}")
    layer = "" if found[1] is None else f"model.layers.{found[1]}."
    return f"{layer}{NAMES[found[2]]}.{found[3]}"
