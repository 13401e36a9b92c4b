"""Create `transformers` directories from golden files: options and tensor names are those that it wrote, weights are drawn from the names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.interop.case import Case
from tests.interop.cases import weight

FOLDER = Path(__file__).parent / "golden"


def kept(case: Case, logits: np.ndarray) -> np.ndarray:
    """Return the logits to store: every twelfth logit over a vocabulary or dimension of a vector, or all logits of other heads."""
    return logits[:, ::12] if case.output in ("tokens", "vectors") else logits.reshape(-1, logits.shape[-1])


def file_name(case: Case) -> str:
    """Return the file name of a case."""
    return re.sub(r"[^a-z0-9.]+", "-", case.name.lower()) + ".json"


def golden(case: Case) -> dict[str, Any]:
    """Return the stored values of a case."""
    return json.loads((FOLDER / file_name(case)).read_text(encoding="utf-8"))


def write_directory(case: Case, directory: Path, *, prefix: str = "", **options: Any) -> dict[str, Any]:
    """Write config.json with changed `options`, and model.safetensors with names without `prefix`. Return the stored values."""
    found = golden(case)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps({**found["config"], **options}))
    tensors = {name.removeprefix(prefix): weight(name, tuple(shape)) for name, shape in found["tensors"].items()}
    save_file(tensors, directory / "model.safetensors")
    return found
