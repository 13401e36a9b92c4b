"""Presets by name, and parameter tables of configurations. This module allocates no arrays."""

from __future__ import annotations

import dataclasses
import importlib
import math
from typing import Any

from flax.traverse_util import flatten_dict

from t2t.errors import UserError, nearest
from t2t.models.preset import Preset
from t2t.models.transformer_config import TransformerConfig
from t2t.nn.model import ModelConfig, ParamSpec

FAMILIES = (
    "t5",
    "longt5",
    "switch",
    "bart",
    "mbart",
    "pegasus",
    "marian",
    "gpt",
    "bert",
    "bitnet",
    "roberta",
    "electra",
    "mpnet",
    "deberta",
    "modernbert",
    "eurobert",
    "neobert",
    "llama",
    "qwen",
    "gemma",
    "smollm3",
    "olmo",
    "mixtral",
    "deepseek",
    "mamba",
    "retnet",
    "gptoss",
    "phi",
    "neox",
    "rwkv",
    "t5gemma",
    "t5gemma2",
)
"""Modules of `t2t.models` with presets. They are imported when they are first used."""


def presets() -> dict[str, Preset]:
    """Return every preset by name ("t5:1.1-small", "gpt:2-xl", "bert:base", ...)."""
    found: dict[str, Preset] = {}
    for family in FAMILIES:
        found |= importlib.import_module(f"t2t.models.{family}").PRESETS
    return found


def preset(name: str, **overrides: Any) -> TransformerConfig:
    """Return the configuration of the preset `name`.

    overrides: fields to change, of the model (vocab_size, dropout, dtype, remat, attention, ...) or of its stacks (num_layers, d_ff, ...).

    Raises:
        UserError: the preset or a field is unknown, or values contradict each other.
    """
    known = presets()
    if name not in known:
        raise UserError(f"unknown model preset {name!r}.{nearest(name, known)}")
    return known[name].config(**overrides)


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a parameter table: path with "/", shape, logical axes, whether weight decay applies, and number of entries."""

    path: str
    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    decay: bool
    count: int


def parameter_table(config: ModelConfig) -> list[Row]:
    """Return a row for each parameter, sorted by path."""
    return _rows(config.build().specs, "")


def _rows(specs: dict[str, Any], path: str) -> list[Row]:
    rows: list[Row] = []
    for name, value in sorted(specs.items()):
        if isinstance(value, ParamSpec):
            rows.append(Row(path + name, value.shape, value.axes, value.decay, math.prod(value.shape)))
        else:
            rows.extend(_rows(value, f"{path}{name}/"))
    return rows


def count(config: ModelConfig) -> int:
    """Return the number of parameters."""
    return sum(row.count for row in parameter_table(config))


def active_count(config: ModelConfig) -> int:
    """Return the number of parameters that process one token: all but those of the experts that the token does not choose."""
    return round(sum(spec.used * math.prod(spec.shape) for spec in flatten_dict(config.build().specs).values()))


def table_text(config: ModelConfig) -> str:
    """Return the table as text: one line with path, shape, axes and decay for each parameter, and the total."""
    rows = parameter_table(config)
    lines = [
        (
            row.path,
            "x".join(map(str, row.shape)),
            ",".join(axis or "-" for axis in row.axes),
            "decay" if row.decay else "no decay",
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    text = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[3]]) for line in lines
    ]
    return "\n".join([*text, f"total {sum(row.count for row in rows):,}"]) + "\n"
