"""Options of a config.json <-> the metadata of a GGUF file."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from t2t.errors import UserError
from t2t.export.family import LARGEST
from t2t.export.gguf_models import ARCHITECTURES, COMMON, Architecture, Field, architecture_of, refused
from t2t.export.gguf_tokenizer import id_of, tokens_of
from t2t.nn.rotary import Rotary

_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""The scaling of Llama 3.1 to 3.3. A file has only the resulting factors."""


def check_options(options: Mapping[str, Any]) -> Architecture:
    """Return the family of a config.json. Raises UserError if llama.cpp cannot compute the model."""
    architecture = architecture_of(options)
    architecture.check(options)
    scaling = options.get("rope_scaling") or {"rope_type": "default"}
    kinds = ("default", "linear", "llama3") if architecture.factors else ("default", "linear")
    if scaling["rope_type"] not in kinds:
        raise refused("rope_scaling", scaling, f"supported are {', '.join(kinds)}")
    if scaling["rope_type"] == "llama3":
        for name, value in _LLAMA3.items():
            if scaling[name] != value:
                raise refused(
                    f"rope_scaling.{name}", scaling[name], f"only {value} (Llama 3.1 to 3.3) can be read back"
                )
    return architecture


def write_options(writer: Any, architecture: Architecture, options: Mapping[str, Any]) -> None:
    """Add the options to a file. writer: a `gguf.GGUFWriter` of that architecture."""
    fields = {name: options[option] for name, option in COMMON.items()}
    fields |= {name: options.get(field.option) for name, field in architecture.fields.items()}
    scaling = options.get("rope_scaling") or {}
    if scaling.get("rope_type") == "linear":
        writer.add_string(f"{architecture.name}.rope.scaling.type", "linear")
        fields["rope.scaling.factor"] = float(scaling["factor"])
    for name, value in fields.items():
        if value is not None:
            add = writer.add_uint32 if isinstance(value, int) else writer.add_float32
            add(f"{architecture.name}.{name}", value)


def rope_factors(options: Mapping[str, Any]) -> np.ndarray | None:
    """Return the numbers by which llama.cpp divides the frequencies of rotary positions, [head_dim / 2]; None if it needs none."""
    scaling = options.get("rope_scaling") or {}
    if scaling.get("rope_type") != "llama3":
        return None
    theta, size = float(options["rope_theta"]), options["head_dim"]
    scaled = Rotary(
        base=theta,
        scaling="llama3",
        factor=scaling["factor"],
        low=scaling["low_freq_factor"],
        high=scaling["high_freq_factor"],
        original_length=scaling["original_max_position_embeddings"],
    )
    factors: np.ndarray = Rotary(base=theta).frequencies(size) / scaled.frequencies(size)
    return factors.astype(np.float32)


def read_options(fields: Mapping[str, Any], names: Collection[str], where: str) -> tuple[Architecture, dict[str, Any]]:
    """Return the family of a file and the options of its config.json, without factors of rotary positions.

    fields: the metadata. names: of the tensors.
    Raises UserError if the family is not supported, or a field is missing, damaged or not supported.
    """
    named = fields.get("general.architecture")
    architecture = next((known for known in ARCHITECTURES if known.name == named), None)
    if architecture is None:
        supported = ", ".join(known.name for known in ARCHITECTURES)
        raise UserError(f"{where}: general.architecture is {str(named)[:80]!r}; supported are {supported}")
    read = _Reader(fields, architecture.name, where)
    heads, width = read.size("attention.head_count"), read.size("embedding_length")
    groups = read.size("attention.head_count_kv", heads)
    head_dim = read.head_dim(width, heads)
    if heads % groups:
        raise UserError(f"{where}: {named}.attention.head_count {heads} is not a multiple of head_count_kv {groups}")
    layers = read.size("block_count")
    blocks = {int(block[1]) for name in names if (block := re.match(r"blk\.(\d{1,9})\.", name))}
    if max(blocks, default=-1) + 1 != layers:
        raise UserError(f"{where}: {named}.block_count is {layers}, but there are {len(blocks)} blocks of tensors")
    tokens = len(tokens_of(fields, where))
    ends = [found for end in ("eos", "eot", "eom") if (found := id_of(fields, end, tokens, where)) is not None]
    options: dict[str, Any] = {
        "architectures": [architecture.model_class],
        "model_type": architecture.model_type,
        "vocab_size": tokens,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "head_dim": head_dim,
        "intermediate_size": read.size("feed_forward_length"),
        "max_position_embeddings": read.size("context_length"),
        "rms_norm_eps": read.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": read.number("rope.freq_base", 10_000.0),
        "rope_scaling": read.scaling(),
        "tie_word_embeddings": "output.weight" not in names,
        **{
            theirs: found
            for ours, theirs in (("bos", "bos_token_id"), ("padding", "pad_token_id"))
            if (found := id_of(fields, ours, tokens, where)) is not None
        },
        # llama.cpp stops at the end of a text, of a turn or of a message.
        "eos_token_id": ends,
    }
    if architecture.name == "llama":
        options |= {"attention_bias": "blk.0.attn_q.bias" in names, "mlp_bias": "blk.0.ffn_gate.bias" in names}
    options |= {field.option: read.field(name, field) for name, field in architecture.fields.items()}
    options |= architecture.fixed(options)
    _check_fixed(read, options)
    return architecture, options


def llama3_scaling(factors: np.ndarray, options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return `rope_scaling` for the factors of rotary positions in a file. options: those of config.json.

    Raises UserError if they are not the factors of Llama 3.1 to 3.3: the file has no other trace of the scaling.
    """
    largest = _shortest(factors.max(initial=0.0))
    scaling = {"rope_type": "llama3", "factor": largest, **_LLAMA3}
    if np.isfinite(factors).all() and 1.0 <= largest <= 1e6:
        expected = rope_factors({**options, "rope_scaling": scaling})
        if expected is not None and expected.shape == factors.shape and np.allclose(factors, expected, rtol=1e-4):
            return scaling
    raise UserError(
        f"{where}: rope_freqs.weight does not have the factors of Llama 3.1 to 3.3 (low_freq_factor 1, high_freq_factor 4, 8,192 positions)"
    )


class _Reader:
    """Reads the fields of a family."""

    def __init__(self, fields: Mapping[str, Any], family: str, where: str) -> None:
        self._fields, self._family, self._where = fields, family, where

    def has(self, name: str) -> bool:
        return f"{self._family}.{name}" in self._fields

    def take(self, name: str, default: Any = None) -> Any:
        value = self._fields.get(f"{self._family}.{name}", default)
        if value is None:
            raise UserError(f"{self._where}: {self._family}.{name} is missing")
        return value

    def size(self, name: str, default: Any = None) -> int:
        value = self.take(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LARGEST:
            raise self.bad(name, value, f"expected an integer from 1 to {LARGEST}")
        return value

    def number(self, name: str, default: Any = None) -> float:
        value = self.take(name, default)
        if not isinstance(value, float) or not 0 < value < float("inf"):
            raise self.bad(name, value, "expected a number above 0")
        return _shortest(value)

    def field(self, name: str, field: Field) -> float | None:
        if field.optional and not self.has(name):
            return None
        return self.size(name, field.default) if field.whole else self.number(name, field.default)

    def head_dim(self, width: int, heads: int) -> int:
        """Return the size of a head: all of it rotates."""
        if width % heads and not self.has("rope.dimension_count") and not self.has("attention.key_length"):
            raise UserError(
                f"{self._where}: {self._family}.embedding_length {width} is not a multiple of {self._family}.attention.head_count {heads}"
            )
        rotating = self.size("rope.dimension_count", self.size("attention.key_length", max(width // heads, 1)))
        for name in ("attention.key_length", "attention.value_length"):
            if self.has(name) and self.size(name) != rotating:
                raise self.bad(name, self.take(name), f"only that of rope.dimension_count, {rotating}, is supported")
        if rotating % 2:
            raise self.bad("rope.dimension_count", rotating, "rotary positions need an even number")
        return rotating

    def scaling(self) -> dict[str, Any] | None:
        kind = self.take("rope.scaling.type", "none")
        if kind == "linear":
            return {"rope_type": "linear", "factor": self.number("rope.scaling.factor")}
        if kind != "none":
            raise self.bad("rope.scaling.type", kind, "only plain rotary positions (none) and linear are supported")
        return None

    def bad(self, name: str, value: Any, reason: str) -> UserError:
        return UserError(f"{self._where}: {self._family}.{name} is {str(value)[:80]}; {reason}")


def _check_fixed(read: _Reader, options: Mapping[str, Any]) -> None:
    """Raise UserError if a file says something else than what is fixed for its family: newer files also have these fields."""
    if "layer_types" in options and read.has(name := "attention.sliding_window_pattern"):
        kinds, value = [kind == "sliding_attention" for kind in options["layer_types"]], read.take(name)
        every = kinds.index(False) + 1 if False in kinds else len(kinds) + 1
        if value != kinds and (isinstance(value, list) or value != every):
            raise read.bad(name, value, f"expected {every}")
    base = options.get("rope_local_base_freq")
    if base is not None and read.number(name := "rope.freq_base_swa", base) != base:
        raise read.bad(name, read.take(name), f"only {base} is supported")


def _shortest(value: float | np.floating[Any]) -> float:
    """Return the shortest decimal number that rounds to the same float32, in which GGUF stores numbers."""
    return float(str(np.float32(value)))
