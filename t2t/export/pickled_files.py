"""Reading of `pytorch_model.bin`, one file or several with an index: pickles of tensors, as older checkpoints have them. Needs `torch`.

A pickle can run any code when it is read. `torch.load(weights_only=True)` reads only tensors and plain containers, and refuses anything else;
versions before 2.6 could be made to run code all the same (CVE-2025-32434), so they are not used.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ml_dtypes
import numpy as np

from t2t.errors import UserError
from t2t.export.tensor_files import INDEX, SINGLE, TensorFiles, indexed
from t2t.stored_paths import hub_cache, stored_path

PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_OLDEST = (2, 6)
CONVERT = (
    "convert it where torch is installed, with AutoModel.from_pretrained(DIR).save_pretrained(NEW) of transformers, which writes safetensors"
    " (AutoModelForCausalLM, ... keeps the head)"
)
"""How to get along without reading a pickle."""


class PickledFiles:
    """The tensors of pickled files. Files of torch 1.6 and later are memory-mapped: a tensor uses memory only while its array exists."""

    def __init__(self, directory: Path) -> None:
        """Open the files of the directory.

        Raises UserError if torch is missing or too old, or if a file is missing, is damaged or contains anything else than tensors.
        """
        self.directory = directory
        self._torch = _torch(directory)
        self._tensors: dict[str, Any] = {}
        self._file: dict[str, Path] = {}
        index = directory / PICKLED_INDEX
        listed = indexed(index) if index.is_file() else {PICKLED: []}
        for file, names in listed.items():
            where = str(index if names else directory)
            path = Path(stored_path(directory, file, where=where, also=hub_cache(directory)))
            found = self._load(path)
            if lost := sorted(set(names) - set(found)):
                raise UserError(f"{path}: tensor {lost[0]} is missing, but {PICKLED_INDEX} lists it")
            self._tensors |= found
            self._file |= dict.fromkeys(found, path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tensors.clear()

    @property
    def names(self) -> list[str]:
        """The names of all tensors, in alphabetical order."""
        return sorted(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape without reading it."""
        return tuple(self._tensors[name].shape)

    def equal(self, one: str, other: str) -> bool:
        """Whether two tensors are equal."""
        return self.shape(one) == self.shape(other) and np.array_equal(self.read(one), self.read(other))

    def read(self, name: str) -> np.ndarray:
        """Return a tensor in its stored type. Raises UserError if that is not a floating type."""
        tensor, torch = self._tensors[name], self._torch
        if tensor.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(
                f"{self._file[name]}: tensor {name} has type {kind}, not float64, float32, float16 or bfloat16: quantised weights are not supported"
            )
        tensor = tensor.detach().contiguous()
        if tensor.dtype == torch.bfloat16:  # NumPy's own types lack it
            return np.asarray(tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16))
        return np.asarray(tensor.numpy())

    def _load(self, path: Path) -> dict[str, Any]:
        try:
            found = self._torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except Exception as error:  # damaged files raise many types
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise UserError(
                f"{path}: not a file of tensors alone, or damaged ({reason[:200]}); if you trust it, {CONVERT}"
            ) from None
        if not isinstance(found, dict) or not found:
            raise UserError(f"{path}: expected a dict of tensors, not {type(found).__name__}")
        for name, tensor in found.items():
            if not isinstance(name, str) or not self._is_plain(tensor):
                raise UserError(f"{path}: {name!s:.80} is {type(tensor).__name__}, not a plain tensor with a name")
        return found

    def _is_plain(self, tensor: Any) -> bool:
        torch = self._torch
        return isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and tensor.device.type == "cpu"


def open_tensors(directory: Path) -> TensorFiles | PickledFiles:
    """Open the weights of a directory: safetensors if there are any, otherwise pickles. Raises UserError if there are none."""
    safe = any((directory / name).is_file() for name in (SINGLE, INDEX)) or any(directory.glob("*.safetensors"))
    pickled = any((directory / name).is_file() for name in (PICKLED, PICKLED_INDEX))
    return PickledFiles(directory) if pickled and not safe else TensorFiles(directory)


def _torch(directory: Path) -> Any:
    """Return the module `torch`. Raises UserError if it is not installed or reads pickles unsafely."""
    file = directory / PICKLED
    where = file if file.is_file() else directory / PICKLED_INDEX
    try:
        import torch
    except ImportError:
        raise UserError(f"{where}: reading a pickle needs torch (pip install torch). Or {CONVERT}.") from None
    version = re.match(r"(\d+)\.(\d+)", str(torch.__version__))
    if version is None or (int(version[1]), int(version[2])) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise UserError(
            f"{where}: torch {torch.__version__} can be made to run code of a pickle. Nearest: torch {oldest} or newer."
        )
    return torch
