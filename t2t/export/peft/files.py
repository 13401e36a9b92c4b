"""The files of an adapter of PEFT."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from t2t.adapters import Adapter
from t2t.errors import UserError
from t2t.export.tensor_files import TensorFiles

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

Found = dict[str, dict[str, str]]
"""Module of the model -> kind of a tensor ("lora_A") -> its name in the file."""


@dataclass(frozen=True, kw_only=True)
class Read:
    """An adapter of PEFT as one of ours.

    adapter: its configuration.
    params:  path -> array: the parameters of the adapter, and the parameters of the model that were trained as well.
    frozen:  path -> array: parameters of the base model that PEFT saved too. It does so if token embeddings or the head have an adapter.
    notes:   what is different from PEFT.
    """

    adapter: Adapter
    params: dict[str, np.ndarray]
    frozen: dict[str, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class AdapterFile:
    """The tensors of an adapter, open for reading. Raises UserError if the file is missing or damaged."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / WEIGHTS
        self._files = TensorFiles(directory, single=WEIGHTS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.__exit__(kind, error, trace)

    @property
    def names(self) -> list[str]:
        """The names of all tensors."""
        return self._files.names

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape without reading it."""
        return self._files.shape(name)

    def expect(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise UserError if a tensor has another shape."""
        if self.shape(name) != shape:
            raise UserError(f"{self.path}: tensor {name} has shape {self.shape(name)}; the base model expects {shape}")

    def read(self, name: str) -> np.ndarray:
        """Return a tensor in float32. Raises UserError if a value is not finite."""
        with np.errstate(over="ignore"):  # reported below
            found = np.asarray(self._files.read(name), np.float32)
        if not np.isfinite(found).all():
            raise UserError(f"{self.path}: tensor {name} has values that are not finite")
        return found
