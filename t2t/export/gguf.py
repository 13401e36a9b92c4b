"""GGUF files of LLaMA-family models (llama.cpp's format), made into directories of `transformers`. Needs the package `gguf`, which llama.cpp's authors keep.

Quantised tensors become float32. The rows of queries' and keys' matrices stand there with turning pairs side by side; they are put back into halves.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from t2t.errors import UserError
from t2t.export.directory import write_json
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
_CONTROL, _USER_DEFINED, _NORMAL = 3, 4, 1
"""Kinds of tokens in GGUF."""

# How texts are cut before merging, by tokenizer.ggml.pre: whether digits stand alone, and GPT-2's pattern or another.
_PRE = {"smollm": True, "gpt-2": False, "default": False}


def gguf_directory(file: Path, out: Path) -> None:
    """Write config.json, model.safetensors (float32) and the tokenizer's files of a GGUF file to `out`.

    Raises UserError where `gguf` is not installed, or the model, a tensor or the tokenizer is of a kind that is not read.
    """
    try:
        from gguf import GGUFReader
        from gguf.quants import dequantize
    except ImportError:
        raise UserError(f"{file}: reading GGUF needs the package gguf: {how_to_install('gguf')}") from None
    try:
        reader = GGUFReader(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not a GGUF file ({error})") from None
    fields = {name: field.contents() for name, field in reader.fields.items()}
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
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        part = tensor.name.split(".")[-2]
        return shuffled(values, heads[part], to_halves=True) if part in heads else values

    shapes = [(name, tuple(int(n) for n in reversed(tensor.shape))) for name, tensor in by_name.items()]
    write_tensors(out, shapes, make)
    write_json(out / "config.json", options)
    _write_tokenizer(fields, out, str(file))


def _options(fields: dict[str, Any], names: set[str], where: str) -> dict[str, Any]:
    def take(name: str, default: Any = None) -> Any:
        value = fields.get(f"llama.{name}", default)
        if value is None:
            raise UserError(f"{where}: llama.{name} is missing")
        return value

    if kind := fields.get("llama.rope.scaling.type"):
        raise UserError(f"{where}: llama.rope.scaling.type is {kind!r}; only plain rotary positions are read")
    heads = take("attention.head_count")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "hidden_size": take("embedding_length"),
        "num_hidden_layers": take("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": take("attention.head_count_kv", heads),
        "head_dim": take("rope.dimension_count", take("embedding_length") // heads),
        "intermediate_size": take("feed_forward_length"),
        "hidden_act": "silu",
        "max_position_embeddings": take("context_length"),
        # Kept in single precision there; the number that was meant is the shortest one that gives it.
        "rms_norm_eps": float(str(np.float32(take("attention.layer_norm_rms_epsilon")))),
        "rope_theta": float(take("rope.freq_base", 10_000.0)),
        "tie_word_embeddings": "output.weight" not in names,
        **{
            theirs: fields[ours]
            for ours, theirs in (
                ("tokenizer.ggml.bos_token_id", "bos_token_id"),
                ("tokenizer.ggml.padding_token_id", "pad_token_id"),
            )
            if ours in fields
        },
        # A text's end, that of a turn and that of a message: any ends what llama.cpp generates.
        "eos_token_id": [
            fields[name] for end in ("eos", "eot", "eom") if (name := f"tokenizer.ggml.{end}_token_id") in fields
        ],
    }


def _name(theirs: str, where: str) -> str:
    found = re.fullmatch(r"(?:blk\.(\d+)\.)?([a-z_]+)\.(weight|bias)", theirs)
    if found is None or found[2] not in _NAMES:
        raise UserError(f"{where}: no place in the model for {theirs}")
    layer = "" if found[1] is None else f"model.layers.{found[1]}."
    return f"{layer}{_NAMES[found[2]]}.{found[3]}"


def _write_tokenizer(fields: dict[str, Any], out: Path, where: str) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    kind, cut = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre", "default")
    if kind != "gpt2" or cut not in _PRE:
        raise UserError(
            f"{where}: its tokenizer is {kind!r} ({cut!r}); byte-level BPE of {', '.join(_PRE)} is read. --vocabulary FILE gives one"
        )
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = (
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), bytes_]) if _PRE[cut] else bytes_
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind in (_CONTROL, _USER_DEFINED)
        ]
    )
    tokenizer.save(str(out / "tokenizer.json"))
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    for name, role in (("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("padding", "pad")):
        number = fields.get(f"tokenizer.ggml.{name}_token_id")
        if number is not None:
            settings[f"{role}_token"] = tokens[number]
    if template := fields.get("tokenizer.chat_template"):
        settings["chat_template"] = template
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
