"""Load an export with JAX alone: `load(directory)["logits"]({"ids": ids})`. Each export contains this file as load.py."""

import hashlib
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
    """Return name -> entry. An entry is a function: name -> input to name -> output. manifest.json describes the entries.

    Raises ValueError, naming the file, if a file has changed since the export.
    """
    directory = Path(directory)
    manifest = directory / "manifest.json"
    try:
        described = json.loads(manifest.read_bytes())
        checksums, weights = described["files"], described["weights"]
        entries = {name: entry["file"] for name, entry in described["entries"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{manifest}: damaged, or not the manifest of an export ({error!r})") from None

    def checked(name: object) -> Path:
        """Return the path of a file after checking its content."""
        if not isinstance(name, str) or name not in checksums or Path(name).name != name:
            raise ValueError(f"{manifest}: damaged, it has no checksum for {name!r}")
        digest, size = hashlib.sha256(), 0
        with (directory / name).open("rb") as file:
            while chunk := file.read(1 << 24):
                digest.update(chunk)
                size += len(chunk)
        if checksums[name] != [size, digest.hexdigest()]:
            raise ValueError(f"{directory / name}: damaged, its SHA-256 differs from manifest.json")
        return directory / name

    if importlib.util.find_spec("flatbuffers") is None:
        # jax.export needs this package, but JAX does not install it: each export contains a copy.
        sys.path.append(str(checked("flatbuffers.zip").resolve()))
    arrays = read_weights(checked(weights))
    return {name: _entry(checked(file), arrays) for name, file in entries.items()}


def _entry(path: Path, weights: dict[str, jax.Array]) -> Callable[[dict[str, Any]], dict[str, jax.Array]]:
    program = jax.jit(jax.export.deserialize(bytearray(path.read_bytes())).call)
    return lambda inputs: program(weights, {name: jnp.asarray(x, jnp.int32) for name, x in inputs.items()})


def read_weights(path: Path) -> dict[str, jax.Array]:
    """Return path -> array for a safetensors file, which consists of the header's length, the header in JSON and the arrays' bytes."""
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
