"""The model families of GGUF files: the names of llama.cpp for their tensors, and what it computes without a field for it.

Names and values are those of llama.cpp's `convert_hf_to_gguf.py` and of its models (`src/models`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from t2t.errors import UserError
from t2t.export.family import activation_name
from t2t.nn.rotary import shuffled

ELSE = "use convert_hf_to_gguf.py of llama.cpp on the output of --format huggingface"
"""What to do with a model or tokenizer that cannot be written."""
FACTORS = "rope_freqs.weight"
"""The tensor with the factors by which llama.cpp divides the frequencies of rotary positions."""

_PRODUCTS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
_HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_SANDWICH_NORMS = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


COMMON = {
    "vocab_size": "vocab_size",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "rope.dimension_count": "head_dim",
    "rope.freq_base": "rope_theta",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
"""The fields of all families: name in GGUF, without the family's -> option of config.json."""


def refused(name: str, value: Any, reason: str) -> UserError:
    """Return the error for an option of config.json that a file cannot store."""
    return UserError(f"--format gguf: {name} is {value!r:.80}, and {reason}; {ELSE}")


@dataclass(frozen=True, kw_only=True)
class Field:
    """A number in the metadata of a GGUF file.

    option:   its name in config.json.
    whole:    whether it is an integer.
    default:  the value that llama.cpp takes if the file does not have it.
    optional: whether the option may be None. The file does not have it then.
    """

    option: str
    whole: bool = False
    default: float | None = None
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """How llama.cpp stores a model family.

    name:        general.architecture.
    model_type:  that of config.json.
    model_class: its class in `transformers`.
    names:       name of a tensor in GGUF -> in `transformers`, both without the layer and without ".weight".
    fixed:       the options that llama.cpp computes from the sizes of a config.json: another value cannot be stored.
    fields:      the fields that only this family has, by their names in GGUF.
    interleaved: whether the rows of queries and keys interleave the rotary pairs. Otherwise the two elements of a pair are half a head apart.
    offset:      what is added to the scale of each norm.
    factors:     whether there may be factors for the rotary frequencies (`FACTORS`).
    """

    name: str
    model_type: str
    model_class: str
    names: Mapping[str, str]
    fixed: Callable[[Mapping[str, Any]], dict[str, Any]]
    fields: Mapping[str, Field] = field(default_factory=dict)
    interleaved: bool = False
    offset: float = 0.0
    factors: bool = False

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise UserError if an option of config.json has another value than the one with which llama.cpp computes."""
        for name, value in self.fixed(options).items():
            if options.get(name) != value:
                raise refused(name, options.get(name), f"llama.cpp computes {self.name} with {value!r:.80}")
        for entry in self.fields.values():
            if options.get(entry.option) is None and not entry.optional:
                raise refused(entry.option, None, f"llama.cpp computes {self.name} with a number")

    def name_in_gguf(self, theirs: str) -> str:
        """Return the name in GGUF of a tensor of `transformers`."""
        found = re.fullmatch(r"(?:model\.layers\.(\d+)\.)?(.+)\.(weight|bias)", theirs)
        assert found is not None, theirs
        part = {published: short for short, published in self.names.items()}[found[2]]
        return f"{'' if found[1] is None else f'blk.{found[1]}.'}{part}.{found[3]}"

    def name_in_transformers(self, stored: str, where: str) -> str:
        """Return the name in `transformers` of a tensor of a GGUF file. Raises UserError if the family has no such tensor."""
        found = re.fullmatch(r"(?:blk\.(\d+)\.)?([a-z_]+)\.(weight|bias)", stored)
        if found is None or found[2] not in self.names:
            raise UserError(f"{where}: unknown tensor {stored}")
        layer = "" if found[1] is None else f"model.layers.{found[1]}."
        return f"{layer}{self.names[found[2]]}.{found[3]}"

    def offset_of(self, name: str) -> float:
        """Return what is added to each number of a tensor. name: as in `transformers`."""
        return self.offset if name.endswith("norm.weight") else 0.0

    def convert(self, name: str, values: np.ndarray, options: Mapping[str, Any], *, to_gguf: bool) -> np.ndarray:
        """Return the numbers of a tensor as GGUF or as `transformers` stores them.

        name:    as in `transformers`.
        options: those of config.json.
        """
        part = name.split(".")[-2]
        heads = {"q_proj": options["num_attention_heads"], "k_proj": options["num_key_value_heads"]}
        if self.interleaved and part in heads:
            return shuffled(values, heads[part], to_halves=not to_gguf)
        offset = np.float32(self.offset_of(name))
        return values if not offset else values + offset if to_gguf else values - offset


def _llama(options: Mapping[str, Any]) -> dict[str, Any]:
    return {"hidden_act": "silu"}


def _qwen2(options: Mapping[str, Any]) -> dict[str, Any]:
    return {"hidden_act": "silu", "use_sliding_window": False}


def _qwen3(options: Mapping[str, Any]) -> dict[str, Any]:
    return {"hidden_act": "silu", "use_sliding_window": False, "attention_bias": False}


def _gemma(every: int, largest: int) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Return `fixed` of a Gemma.

    every:   only layers `every`, 2 * `every`, ... have no window.
    largest: number of layers of the model of 27B, in which the scale of queries is not that of a head.
    """

    def fixed(options: Mapping[str, Any]) -> dict[str, Any]:
        layers, heads = options["num_hidden_layers"], options["num_attention_heads"]
        scalar = options["hidden_size"] // heads if layers == largest else options["head_dim"]
        kinds = ["sliding_attention" if (layer + 1) % every else "full_attention" for layer in range(layers)]
        return {
            "hidden_activation": activation_name("gelu_tanh"),
            "query_pre_attn_scalar": scalar,
            "layer_types": kinds,
            "attention_bias": False,
            "tie_word_embeddings": True,
            **({"rope_local_base_freq": 10_000.0} if every == 6 else {}),
        }

    return fixed


ARCHITECTURES = (
    Architecture(
        name="llama",
        model_type="llama",
        model_class="LlamaForCausalLM",
        names=_PRODUCTS | _NORMS,
        fixed=_llama,
        interleaved=True,
        factors=True,
    ),
    Architecture(
        name="qwen2",
        model_type="qwen2",
        model_class="Qwen2ForCausalLM",
        names=_PRODUCTS | _NORMS,
        fixed=_qwen2,
    ),
    Architecture(
        name="qwen3",
        model_type="qwen3",
        model_class="Qwen3ForCausalLM",
        names=_PRODUCTS | _NORMS | _HEAD_NORMS,
        fixed=_qwen3,
    ),
    Architecture(
        name="gemma2",
        model_type="gemma2",
        model_class="Gemma2ForCausalLM",
        names=_PRODUCTS | _SANDWICH_NORMS,
        fixed=_gemma(every=2, largest=46),
        fields={
            "attention.sliding_window": Field(option="sliding_window", whole=True, default=4096),
            "attn_logit_softcapping": Field(option="attn_logit_softcapping", default=50.0),
            "final_logit_softcapping": Field(option="final_logit_softcapping", default=30.0),
        },
        offset=1.0,
    ),
    Architecture(
        name="gemma3",
        model_type="gemma3_text",
        model_class="Gemma3ForCausalLM",
        names=_PRODUCTS | _SANDWICH_NORMS | _HEAD_NORMS,
        fixed=_gemma(every=6, largest=62),
        fields={
            "attention.sliding_window": Field(option="sliding_window", whole=True),
            "final_logit_softcapping": Field(option="final_logit_softcapping", optional=True),
        },
        offset=1.0,
    ),
)
"""The supported families."""


def architecture_of(options: Mapping[str, Any]) -> Architecture:
    """Return the family of a config.json. Raises UserError if it is not supported."""
    for architecture in ARCHITECTURES:
        if architecture.model_type == options.get("model_type"):
            return architecture
    known = ", ".join(architecture.model_type for architecture in ARCHITECTURES)
    raise refused("model_type", options.get("model_type"), f"only {known} are supported")
