"""Writing of models whose linear layers `transformers` stores in another form than floats."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from t2t.export.mapping import Shape, Tensor
from t2t.export.tensor_files import write_tensors


class QuantizedTensors(abc.ABC):
    """The tensors of a model, some of which are weights of linear layers that several tensors store. All others are floats.

    wanted: the tensors of the float model, from `t2t.models.families.exportable`.
    quantized: those of the weights that are stored in another form, by name.
    dtype:  type of the other tensors, and in which `transformers` computes.
    """

    def __init__(self, wanted: Sequence[Tensor], quantized: Mapping[str, Tensor], *, dtype: str) -> None:
        self.wanted, self.quantized, self.dtype = wanted, quantized, dtype

    @abc.abstractmethod
    def options(self) -> dict[str, Any]:
        """Return the value of "quantization_config" of config.json."""

    @abc.abstractmethod
    def check(self, directory: Path) -> str:
        """Read the written weights back, and return a line about them. Raises Failure if a file does not hold what was written."""

    @abc.abstractmethod
    def layout(self, tensor: Tensor) -> dict[str, tuple[Shape, str]]:
        """Return the shapes and types of the tensors that store a weight, by name. The first has the name of the weight."""

    @abc.abstractmethod
    def stored(self, name: str, weight: np.ndarray) -> dict[str, np.ndarray]:
        """Return the tensors that store a linear layer's weight [O I]."""

    def write(self, directory: Path, make: Callable[[str], np.ndarray], *, shard_bytes: int) -> None:
        """Write the tensors. make: returns a float tensor by its name."""
        shapes: list[tuple[str, Shape]] = []
        types: dict[str, str] = {}
        for tensor in self.wanted:
            if tensor.name not in self.quantized:
                shapes.append((tensor.name, tensor.shape))
                continue
            for name, (shape, dtype) in self.layout(tensor).items():
                shapes.append((name, shape))
                types[name] = dtype
        ready: dict[str, np.ndarray] = {}

        def one(name: str) -> np.ndarray:
            if name in self.quantized:  # the first of a layer's tensors
                ready.clear()
                ready.update(self.stored(name, make(name)))
            return ready[name] if name in types else make(name)

        write_tensors(directory, shapes, one, dtype=self.dtype, shard_bytes=shard_bytes, types=types)
