"""Loads an export with nothing but JAX: `load(directory)["logits"]({"ids": ids})`. Copied beside each export as load.py."""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np


def load(directory: str | Path = ".") -> dict[str, Callable[[dict[str, Any]], dict[str, jax.Array]]]:
    """Return the entries by name: functions from inputs by name to outputs by name. manifest.json describes them."""
    directory = Path(directory)
    if importlib.util.find_spec("flatbuffers") is None:
        # jax.export reads programs with this package, and JAX does not install it: a copy lies beside each export.
        sys.path.append(str(directory.resolve() / "flatbuffers.zip"))
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    weights = read_weights(directory / manifest["weights"])
    return {name: _entry(directory / entry["file"], weights) for name, entry in manifest["entries"].items()}


def _entry(path: Path, weights: dict[str, jax.Array]) -> Callable[[dict[str, Any]], dict[str, jax.Array]]:
    program = jax.jit(jax.export.deserialize(bytearray(path.read_bytes())).call)
    return lambda inputs: program(weights, {name: jnp.asarray(x, jnp.int32) for name, x in inputs.items()})


def read_weights(path: Path) -> dict[str, jax.Array]:
    """Return path -> array of a safetensors file: a header's length, a header in JSON, and the arrays' bytes."""
    kinds = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32"}
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    weights = {}
    for name, entry in header.items():
        dtype, start = jnp.dtype(kinds[entry["dtype"]]), 8 + size + entry["data_offsets"][0]
        count = int(np.prod(entry["shape"], dtype=np.int64))
        flat = np.fromfile(path, np.uint8, count * dtype.itemsize, offset=start)
        weights[name] = jnp.asarray(flat.view(dtype).reshape(entry["shape"]))
    return weights
