"""Export to safetensors: the parameters, the configuration and the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from t2t import config
from t2t.adapters import Adapter
from t2t.checksums import names_beneath, problem, table
from t2t.errors import Failure, UserError
from t2t.export.directory import (
    WEIGHTS,
    describe_model,
    flatten,
    unflatten,
    write_json,
    write_vocabulary,
    write_weights,
    writing,
)
from t2t.json_files import expect, read_json
from t2t.nn.model import Model, ModelConfig
from t2t.stored_paths import inside
from t2t.types import Params
from t2t.vocabularies import Vocabulary

CONFIG = "config.json"
NONE = Adapter()


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The content of a safetensors export. `adapter.applied(model.build())` is the model of the parameters."""

    model: ModelConfig
    vocabulary: Vocabulary
    params: Params
    adapter: Adapter = NONE


def write_safetensors(
    model: Model,
    params: Params,
    vocabulary: Vocabulary,
    out: str | Path,
    *,
    adapter: Adapter = NONE,
    overwrite: bool = False,
    source: dict[str, Any] | None = None,
) -> Path:
    """Write OUT/model.safetensors (path -> array, such as "encoder/mlp/kernel"), OUT/config.json and the vocabulary's files.

    adapter: the adapter of `model`, saved in config.json.
    source:  origin of the model, saved there too.
    Returns the directory. Raises UserError if `out` is not empty and `overwrite` is false.
    """
    out = Path(out)
    with writing(out, overwrite=overwrite) as draft:
        written = write_weights(draft, params)
        back = load_file(draft / WEIGHTS)
        for path, array in written.items():
            if back[path].dtype != array.dtype or back[path].tobytes() != array.tobytes():
                raise Failure(f"{draft / WEIGHTS}: parameter {path} was not written correctly")
        described = {**describe_model(model, params), "vocabulary": write_vocabulary(draft, vocabulary)}
        if adapter.enabled:
            described["adapter"] = config.to_json(adapter)
        files = table(draft, names_beneath(draft))
        write_json(draft / CONFIG, {"format": "safetensors", **described, "source": source or {}, "files": files})
    return out


def read_safetensors(directory: str | Path) -> Weights:
    """Return the configuration, vocabulary and parameters (NumPy arrays) that `write_safetensors` wrote.

    Raises UserError if a file is missing, damaged or not part of such an export, or if a parameter is missing.
    """
    directory = Path(directory)
    path = directory / CONFIG
    if missing := [name for name in (CONFIG, WEIGHTS) if not (directory / name).is_file()]:
        raise UserError(f"{directory}: not a safetensors export: {missing[0]} is missing")
    data = read_json(path)
    if data.get("format") != "safetensors":
        raise UserError(f"{path}: does not describe a safetensors export")
    if "files" in data and (message := problem(directory, data["files"], [WEIGHTS], where=path)):
        raise UserError(message)
    try:
        flat = load_file(inside(directory, WEIGHTS, where=str(directory)))
    except SafetensorError as error:
        raise UserError(f"{directory / WEIGHTS}: damaged ({error})") from None
    model = config.from_json(data.get("model"), where=f"{path}: model")
    described = expect(data.get("vocabulary"), dict, f"{path}: vocabulary")
    vocabulary = config.from_json(described.get("configuration"), where=f"{path}: vocabulary")
    adapter = config.from_json(data["adapter"], where=f"{path}: adapter") if "adapter" in data else NONE
    if not isinstance(model, ModelConfig) or not isinstance(vocabulary, Vocabulary) or not isinstance(adapter, Adapter):
        raise UserError(f"{path}: does not describe a model, its adapter and its vocabulary")
    params = unflatten(flat)
    _check(flat, adapter.applied(model.build()), directory / WEIGHTS)
    return Weights(model=model, vocabulary=vocabulary.in_directory(str(directory)), params=params, adapter=adapter)


def _check(flat: dict[str, np.ndarray], model: Model, where: Path) -> None:
    specs = flatten(model.specs)
    for path, spec in specs.items():
        if path not in flat or flat[path].shape != tuple(spec.shape):
            found = f"has shape {list(flat[path].shape)}" if path in flat else "is missing"
            raise UserError(f"{where}: parameter {path} {found}; the model in {CONFIG} expects {list(spec.shape)}")
