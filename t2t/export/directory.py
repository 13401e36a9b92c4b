"""The output directory of an export, and the parts that all exports share: weights and vocabulary files."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from t2t import config
from t2t.errors import UserError
from t2t.nn.model import Model
from t2t.paths import check_directory, shown_path
from t2t.types import Params
from t2t.vocabularies import Vocabulary

WEIGHTS = "model.safetensors"


def check(out: Path, *, overwrite: bool) -> None:
    """Raise UserError if an export cannot be written to `out`."""
    check_directory(out, "--out")
    if out.is_symlink() and not out.exists():
        raise UserError(f"{out} (--out) is a link to {os.readlink(out)}, which does not exist")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise UserError(f"{out} (--out) is not empty. Use another --out, or --overwrite to replace files in it.")


@contextlib.contextmanager
def writing(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary directory to write to. On success its files are moved to `out`; on failure they are deleted.

    Existing files of the same names are replaced, all others are kept. Raises UserError like `check`.
    """
    check(out, overwrite=overwrite)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # Use only part of the name: the added prefix and suffix could make a long name too long.
        draft = Path(tempfile.mkdtemp(prefix=f".{out.name[:40]}.", dir=out.parent))
    except OSError as error:
        raise UserError(f"{shown_path(str(out))} (--out) cannot be created: {error.strerror}") from None
    try:
        yield draft
        _check_kinds(draft, out)
        try:
            out.mkdir(exist_ok=True)
        except FileExistsError:
            raise UserError(f"{out} (--out) is not a directory: another process created it during the export") from None
        _move(draft, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _check_kinds(draft: Path, out: Path) -> None:
    """Raise UserError if a file would replace a directory, or a directory a file."""
    for path in draft.rglob("*"):
        target = out / path.relative_to(draft)
        if target.exists() and target.is_dir() != path.is_dir():
            ours, theirs = ("a directory", "a file") if target.is_dir() else ("a file", "a directory")
            raise UserError(f"{target} (--out) is {ours}, and cannot be replaced by {theirs}. Use another --out.")


def _move(draft: Path, out: Path) -> None:
    """Move the files of a directory to another. Files of the same names are replaced."""
    for path in draft.iterdir():
        target = out / path.name
        if path.is_dir() and target.is_dir():
            _move(path, target)
        else:
            os.replace(path, target)


def write_weights(draft: Path, params: Params) -> dict[str, np.ndarray]:
    """Write all parameters to one safetensors file. Return path -> array."""
    # safetensors writes the raw buffer, so transposed views must be copied.
    weights = {
        path: np.ascontiguousarray(jax.device_get(leaf)).reshape(leaf.shape) for path, leaf in flatten(params).items()
    }
    save_file(weights, draft / WEIGHTS, metadata={"format": "pt"})
    return weights


def describe_model(model: Model, params: Params) -> dict[str, Any]:
    """Return a description of the model as JSON values."""
    return {
        "kind": model.config.kind,
        "parameters": sum(int(np.prod(leaf.shape)) for leaf in flatten(params).values()),
        "weights": WEIGHTS,
        "model": config.to_json(model.config),
    }


def write_vocabulary(draft: Path, vocabulary: Vocabulary) -> dict[str, Any]:
    """Copy the vocabulary's files. Return a description of the vocabulary as JSON values."""
    relative = vocabulary.relocated(str(draft))
    ids = {
        name: getattr(vocabulary, name)
        for name in ("pad_id", "eos_id", "unk_id", "bos_id", "mask_id", "cls_id", "sep_id")
    }
    return {
        "size": vocabulary.size,
        **ids,
        "end_ids": list(vocabulary.end_ids),
        "files": sorted(Path(path).name for path in vocabulary.files()),
        "configuration": config.to_json(relative),
    }


def write_json(path: Path, data: Any) -> None:
    """Write `data` as indented JSON."""
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def flatten(params: Params, prefix: str = "") -> dict[str, Any]:
    """Return path -> array for a nested dict."""
    flat: dict[str, Any] = {}
    for key, value in params.items():
        flat.update(flatten(value, f"{prefix}{key}/") if isinstance(value, dict) else {prefix + key: value})
    return flat


def unflatten(flat: dict[str, Any]) -> Params:
    """Return the nested dict for path -> array."""
    params: Params = {}
    for path, value in flat.items():
        *folders, name = path.split("/")
        place = params
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = value
    return params
