"""Export to StableHLO with `jax.export`: programs that need only JAX to run, and a separate file of weights.

The weights are an argument, not constants of the programs. Constants would count towards the limit of 2 GB for a serialized program, would be
stored in each program, and could not be placed or sharded by the user.
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from t2t.checksums import names_beneath, table
from t2t.errors import Failure, UserError
from t2t.export import loader
from t2t.export.directory import (
    describe_model,
    unflatten,
    write_json,
    write_vocabulary,
    write_weights,
    writing,
)
from t2t.export.entries import Entry, entries
from t2t.export.flatbuffers_copy import FLATBUFFERS, write_flatbuffers
from t2t.export.readme import readme
from t2t.nn.model import Model
from t2t.types import Params
from t2t.vocabularies import Vocabulary

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
MANIFEST = "manifest.json"
log = logging.getLogger(__name__)


def write_stablehlo(
    model: Model,
    params: Params,
    vocabulary: Vocabulary,
    out: str | Path,
    *,
    length: int = 128,
    fixed_lengths: dict[str, int] | None = None,
    platforms: tuple[str, ...] = ("cpu", "cuda", "tpu"),
    overwrite: bool = False,
    source: dict[str, Any] | None = None,
) -> Path:
    """Write OUT/ENTRY.stablehlo for each entry of the model, the weights, a manifest, a loader with its dependency, and the vocabulary's files.

    The entries are `logits`, and `greedy` if the model can generate. An entry takes (path -> weight, name -> input). The batch size and the lengths
    are symbolic. Before anything is written to `out`, each program is loaded and its outputs are compared with those of the model.

    length:        maximum number of tokens that `greedy` generates.
    fixed_lengths: sizes of the length dimensions. Only used if the model cannot be traced with symbolic lengths.
    source:        origin of the model, saved in the manifest.

    Returns the directory.

    Raises UserError if `out` is not empty and `overwrite` is false, if a platform is unknown, or if `length` exceeds the model's positions.
    Raises Failure if the outputs of a written program differ from those of the model.
    """
    for platform in platforms:
        if platform not in PLATFORMS:
            raise UserError(f"unknown platform {platform!r} (--platforms). Known: {', '.join(PLATFORMS)}.")
    limit = model.config.max_length
    if model.config.can("generate") and not 1 <= length <= (limit or length):
        positions = "" if limit is None else f": the model has {limit} positions"
        raise UserError(
            f"--length {length} cannot be generated{positions}. Nearest: {limit if limit and length > 1 else 1}."
        )
    options: dict[str, Any] = {
        "length": length,
        "eos_id": vocabulary.end_ids,
        "start_ids": (vocabulary.bos_id, *([] if vocabulary.forced is None else [vocabulary.forced])),
        "vocab_size": vocabulary.size,
        "pad_id": vocabulary.pad_id,
    }
    out = Path(out)
    with writing(out, overwrite=overwrite) as draft:
        weights = write_weights(draft, params)
        described = {}
        for entry, original in zip(entries(_portable(model), **options), entries(model, **options), strict=True):
            sizes, program = _export(entry, weights, platforms, fixed_lengths or {})
            (draft / f"{entry.name}.stablehlo").write_bytes(program)
            difference = _compare(entry, original, params, weights, program, sizes, model)
            described[entry.name] = {
                "file": f"{entry.name}.stablehlo",
                "about": entry.about,
                "inputs": {
                    name: {"shape": [sizes.get(d, d) for d in i.shape], "dtype": "int32", "about": i.about}
                    for name, i in entry.inputs.items()
                },
                "at_most": {name: size for name, size in entry.limits.items() if name not in sizes},
                "outputs": entry.outputs,
                "largest_difference_from_the_model": difference,
            }
        write_flatbuffers(draft / FLATBUFFERS)
        vocabulary_described = write_vocabulary(draft, vocabulary)
        manifest = {
            "format": "jax.export",
            "jax": jax.__version__,
            "platforms": list(platforms),
            "call": "jax.export.deserialize(bytes of file).call(weights by path, inputs by name) -> outputs by name",
            "entries": described,
            **describe_model(model, params),
            "vocabulary": vocabulary_described,
            "source": source or {},
            "files": table(draft, names_beneath(draft)),
        }
        write_json(draft / MANIFEST, manifest)
        (draft / "README.md").write_text(readme(manifest), encoding="utf-8")
        (draft / "load.py").write_text(inspect.getsource(loader), encoding="utf-8")
    return out


def _portable(model: Model) -> Model:
    """Return the model without platform-specific kernels."""
    if model.config.execution.get("attention", "einsum") == "einsum":
        return model
    return model.rebuilt(dataclasses.replace(model.config, attention="einsum"))  # type: ignore[call-arg]


def _export(
    entry: Entry, weights: dict[str, np.ndarray], platforms: tuple[str, ...], fixed: dict[str, int]
) -> tuple[dict[str, int], bytes]:
    """Return the sizes of dimensions that must be fixed, and the serialized program."""

    def function(flat: dict[str, jax.Array], inputs: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return entry.function(unflatten(flat), inputs)

    shapes = {path: jax.ShapeDtypeStruct(w.shape, w.dtype) for path, w in weights.items()}
    export = jax.export.export(jax.jit(function), platforms=platforms)
    try:
        return {}, bytes(export(shapes, _symbolic(entry, {})).serialize())
    # JAX cannot compare symbolic lengths, or scan over them in parallel.
    except (jax.errors.InconclusiveDimensionOperation, NotImplementedError) as error:
        lengths = {name for i in entry.inputs.values() for name in i.shape} - {"batch"}
        if missing := lengths - set(fixed):
            raise UserError(
                f"this model cannot be exported without fixed lengths, but {', '.join(sorted(missing))} is missing"
            ) from error
        sizes = {name: fixed[name] for name in lengths}
        log.warning(
            "%s: exported with fixed lengths (%s): the model cannot be traced with symbolic lengths",
            entry.name,
            ", ".join(f"{name} {size}" for name, size in sorted(sizes.items())),
        )
        return sizes, bytes(export(shapes, _symbolic(entry, sizes)).serialize())


def _symbolic(entry: Entry, sizes: dict[str, int]) -> dict[str, jax.ShapeDtypeStruct]:
    names = {name for i in entry.inputs.values() for name in i.shape} - set(sizes)
    constraints = []
    for name in sorted(names - {"batch"}):
        # True for every size. The slices of relative positions need it, but JAX cannot prove it.
        constraints.append(f"2*{name}^2 - {name} >= 0")
        if name in entry.limits:
            constraints.append(f"{name} <= {entry.limits[name]}")
    scope = jax.export.SymbolicScope(constraints)
    return {
        name: jax.ShapeDtypeStruct(
            jax.export.symbolic_shape(", ".join(str(sizes.get(d, d)) for d in i.shape), scope=scope), jnp.int32
        )
        for name, i in entry.inputs.items()
    }


def _compare(
    entry: Entry,
    original: Entry,
    params: Params,
    weights: dict[str, np.ndarray],
    program: bytes,
    sizes: dict[str, int],
    model: Model,
) -> float:
    """Return the maximum difference between the outputs of the program and of the model, relative to the largest output."""
    tolerance = 5e-2 if model.config.dtype == "bfloat16" else 1e-3
    loaded = jax.export.deserialize(bytearray(program))
    worst = 0.0
    inputs = _example(entry, {"batch": 3, **sizes}, length=5, vocab_size=model.config.vocab_size)
    got = jax.jit(loaded.call)(weights, inputs)
    want = jax.jit(original.function)(params, inputs)
    for name in want:
        if want[name].dtype == jnp.float32:
            actual, expected = np.asarray(got[name]), np.asarray(want[name])
            worst = max(worst, float(np.max(np.abs(actual - expected)) / max(1.0, np.max(np.abs(expected)))))
    if not worst <= tolerance:
        raise Failure(
            f"the exported {entry.name} differs from the model by {worst:.2g}; the tolerance is {tolerance:.2g}"
        )
    return worst


def _example(entry: Entry, sizes: dict[str, int], *, length: int, vocab_size: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    length = min([length, *entry.limits.values()])
    inputs = {}
    for name, i in entry.inputs.items():
        shape = [sizes.get(d, length) for d in i.shape]
        if len(shape) == 1:
            numbers = rng.integers(1, length + 1, shape)
        else:
            numbers = rng.integers(0, 2, shape) if name == "types" else rng.integers(1, vocab_size, shape)
        inputs[name] = numbers.astype(np.int32)
    return inputs
