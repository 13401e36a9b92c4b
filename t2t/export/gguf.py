"""GGUF files of LLaMA-family models (llama.cpp's format), made into directories of `transformers`. Needs the package `gguf`, which llama.cpp's authors keep.

Quantised tensors become float32. The rows of queries' and keys' matrices stand there with turning pairs side by side; they are put back into halves.
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

_NAMES = {
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
_LEFT_OUT = {"rope_freqs.weight": "made from the options"}


def gguf_directory(file: Path, out: Path) -> None:
    """Write config.json, model.safetensors (float32) and the tokenizer's files of a GGUF file to `out`.

    Raises UserError where `gguf` is not installed, or the model, a tensor or the tokenizer is of a kind that is not read.
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
        raise UserError(f"{file}: general.architecture is {architecture!r}; only llama is read")
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
            raise UserError(f"{file}: {tensor.name} is of type {tensor.tensor_type.name}, which is not read") from None
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
            raise UserError(f"{where}: llama.{name} is {str(value)[:80]}; a whole number from 1 to {LARGEST} is wanted")
        return value

    def number(name: str, default: Any = None) -> float:
        value = take(name, default)
        if not isinstance(value, float) or not 0 < value < float("inf"):
            raise UserError(f"{where}: llama.{name} is {str(value)[:80]}; a number above 0 is wanted")
        return value

    if kind := fields.get("llama.rope.scaling.type"):
        raise UserError(f"{where}: llama.rope.scaling.type is {kind!r}; only plain rotary positions are read")
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
        # Kept in single precision there; the number that was meant is the shortest one that gives it.
        "rms_norm_eps": float(str(np.float32(number("attention.layer_norm_rms_epsilon")))),
        "rope_theta": number("rope.freq_base", 10_000.0),
        "tie_word_embeddings": "output.weight" not in names,
        **{
            theirs: found
            for ours, theirs in (("bos", "bos_token_id"), ("padding", "pad_token_id"))
            if (found := id_of(fields, ours, tokens, where)) is not None
        },
        # A text's end, that of a turn and that of a message: any ends what llama.cpp generates.
        "eos_token_id": ends,
    }


def _check_sizes(tensors: Mapping[str, Any], options: dict[str, Any], where: str) -> None:
    """Refuse sizes of the configuration that are not those of the tensors: queries and keys are reshaped by them."""
    dimension = options["head_dim"]
    if dimension % 2:
        raise UserError(
            f"{where}: llama.rope.dimension_count is {dimension}; pairs turn, so that an even number is wanted"
        )
    rows = {"q_proj": options["num_attention_heads"] * dimension, "k_proj": options["num_key_value_heads"] * dimension}
    layers = set()
    for name, tensor in tensors.items():
        if found := re.match(r"model\.layers\.(\d+)\.(?:self_attn\.(q_proj|k_proj))?", name):
            layers.add(int(found[1]))
            shape = [int(n) for n in reversed(tensor.shape)]
            if found[2] and shape[0] != rows[found[2]]:
                raise UserError(
                    f"{where}: {tensor.name} has {shape[0]} rows, and {rows[found[2]]} by llama.attention.head_count(_kv) and rope.dimension_count"
                )
    if max(layers, default=-1) + 1 != options["num_hidden_layers"]:
        raise UserError(
            f"{where}: llama.block_count is {options['num_hidden_layers']}, and there are {len(layers)} blocks of tensors"
        )


def _name(theirs: str, where: str) -> str:
    found = re.fullmatch(r"(?:blk\.(\d+)\.)?([a-z_]+)\.(weight|bias)", theirs)
    if found is None or found[2] not in _NAMES:
        raise UserError(f"{where}: no place in the model for {theirs}")
    layer = "" if found[1] is None else f"model.layers.{found[1]}."
    return f"{layer}{_NAMES[found[2]]}.{found[3]}"
