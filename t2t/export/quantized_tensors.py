"""Writing of models whose linear layers `transformers` stores in another form than floats."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from t2t.errors import UserError
from t2t.export.mapping import Interleaved, JoinedTransposed, Shape, Tensor, Transposed
from t2t.export.tensor_files import write_tensors

_LINEAR = (Transposed, JoinedTransposed, Interleaved)
"""Operations that give a weight of `torch.nn.Linear`, with the output axis first."""


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
        """Return the shapes and types of the tensors that store a weight, by name."""

    @abc.abstractmethod
    def stored(self, name: str, weight: np.ndarray) -> dict[str, np.ndarray]:
        """Return the tensors that store a linear layer's weight [O I]."""

    def float_modules(self) -> list[str]:
        """Return the names of the modules of `transformers` whose weights stay floats, for those that would quantize all linear layers."""
        rest = [tensor for tensor in self.wanted if tensor.name not in self.quantized]
        floats = [name for tensor in rest for name in (tensor.name, *tensor.aliases)]
        return sorted({name.removesuffix(".weight") for name in floats if name.endswith(".weight")})

    def write(self, directory: Path, make: Callable[[str], np.ndarray], *, shard_bytes: int) -> None:
        """Write the tensors. make: returns a float tensor by its name."""
        shapes: list[tuple[str, Shape]] = []
        types: dict[str, str] = {}
        weights: dict[str, str] = {}
        for tensor in self.wanted:
            if tensor.name not in self.quantized:
                shapes.append((tensor.name, tensor.shape))
                continue
            for name, (shape, dtype) in self.layout(tensor).items():
                shapes.append((name, shape))
                types[name], weights[name] = dtype, tensor.name
        ready: dict[str, np.ndarray] = {}

        def one(name: str) -> np.ndarray:
            if name not in weights:
                return make(name)
            if name not in ready:  # the first of a weight's tensors
                ready.clear()
                ready.update(self.stored(weights[name], make(weights[name])))
            return ready[name]

        write_tensors(directory, shapes, one, dtype=self.dtype, shard_bytes=shard_bytes, types=types)


def check_linear(weights: Mapping[str, Tensor], format: str) -> None:
    """Raise UserError if one of the weights that are stored in a format is not that of a linear layer of PyTorch, with the output axis first (GPT-2's)."""
    for name, tensor in weights.items():
        if not isinstance(tensor.operation, _LINEAR):
            raise UserError(
                f"--quantize {format}: {name} is not the weight of a linear layer of PyTorch. Nearest: --quantize none."
            )
