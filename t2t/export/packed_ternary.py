"""Reading and writing of ternary weights that are packed in bytes, as BitNet b1.58 2B4T is published (https://arxiv.org/abs/2504.12285).

A tensor NAME.weight [O I] is bytes [O/4 I] and NAME.weight_scale [1]. A byte has four weights plus one, in two bits each: bits 2i and 2i + 1 are those of row
i O/4 + j, where j is the row of the byte.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import safe_open

from t2t.errors import Failure, UserError
from t2t.export.mapping import Shape, Tensor, Transposed
from t2t.export.pickled_files import PickledFiles
from t2t.export.quantized_tensors import QuantizedTensors
from t2t.export.tensor_files import TensorFiles
from t2t.nn.model import ModelConfig
from t2t.nn.ternary import ternary

_SCALE = "_scale"
_ROWS = 4
"""Number of weights in a byte."""


class UnpackedTernary:
    """The tensors of a directory, those of packed ternary weights as float32. A tensor uses memory only while its array exists.

    The float weights are ternary weights times a number such that the mean of their absolute values is the scale. So `t2t.nn.ternary` rounds them to the same
    weights with the same scale.

    inverse: the stored scale is what sums are divided by ("linear_class": "bitlinear"), not a factor.

    Raises UserError, naming the tensor, if its scale belongs to no bytes, or has another shape.
    """

    def __init__(self, files: TensorFiles, *, inverse: bool) -> None:
        self.directory: Path = files.directory
        self._files, self._inverse = files, inverse
        stored = set(files.names)
        self._packed = {name.removesuffix(_SCALE) for name in stored if name.endswith(f".weight{_SCALE}")}
        for name in sorted(self._packed):
            if name not in stored or len(files.shape(name)) != 2 or files.shape(name + _SCALE) != (1,):
                raise UserError(
                    f"{self.directory}: tensor {name + _SCALE} is not one number beside a matrix of bytes {name}"
                )
        self._names = sorted(stored - {name + _SCALE for name in self._packed})

    @property
    def names(self) -> Collection[str]:
        """The names of all tensors."""
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape without reading it."""
        shape = self._files.shape(name)
        return (_ROWS * shape[0], shape[1]) if name in self._packed else shape

    def equal(self, one: str, other: str) -> bool:
        """Whether two tensors are equal."""
        return self.shape(one) == self.shape(other) and np.array_equal(self.read(one), self.read(other))

    def read(self, name: str) -> np.ndarray:
        """Return a tensor in its stored type, or in float32. Raises UserError if the stored type is not supported."""
        if name not in self._packed:
            return self._files.read(name)
        weights = unpack(self._files.read_bytes(name))
        stored = float(self._files.read(name + _SCALE).astype(np.float32)[0])
        share = np.abs(weights).mean(dtype=np.float64)
        return weights * np.float32((1.0 / stored if self._inverse else stored) / max(share, 1e-9))


def unpacked_ternary(files: TensorFiles | PickledFiles, options: Mapping[str, Any]) -> Any:
    """Return the tensors with packed ternary weights as float32; `files` itself if there are none. options: the content of config.json."""
    rounding = options.get("quantization_config")
    if not isinstance(rounding, dict) or rounding.get("quant_method") != "bitnet" or not isinstance(files, TensorFiles):
        return files
    if not any(name.endswith(f".weight{_SCALE}") for name in files.names):
        return files
    return UnpackedTernary(files, inverse=rounding.get("linear_class", "bitlinear") == "bitlinear")


def unpack(packed: np.ndarray) -> np.ndarray:
    """Return the float32 weights -1, 0 and 1 [O I] of bytes [O/4 I]."""
    return np.concatenate([(packed >> 2 * part & 3).astype(np.float32) - 1 for part in range(_ROWS)])


def pack(weights: np.ndarray) -> np.ndarray:
    """Return the bytes [O/4 I] of weights -1, 0 and 1 [O I]. O must be a multiple of 4."""
    parts = np.split((weights + 1).astype(np.uint8), _ROWS)
    return np.bitwise_or.reduce([part << np.uint8(2 * place) for place, part in enumerate(parts)])


class PackedTernary(QuantizedTensors):
    """The tensors of a model with ternary weights, which are packed. The scales are factors, in float32.

    Raises UserError if the products of the model do not round its kernels to ternary weights, or if a weight cannot be packed.
    """

    def __init__(self, config: ModelConfig, wanted: Sequence[Tensor], *, dtype: str) -> None:
        kernels = config.build().quantized("ternary").quantized_kernels
        found = {tensor.name: tensor for tensor in wanted if kernels.issuperset(tensor.ours)}
        super().__init__(wanted, found, dtype=dtype)
        for name, tensor in found.items():
            if not isinstance(tensor.operation, Transposed):
                raise UserError(f"--quantize ternary: {name} is not the weight of one linear layer. Nearest: none.")
            if tensor.shape[0] % _ROWS:
                raise UserError(
                    f"--quantize ternary: {name} has {tensor.shape[0]} outputs, which is no multiple of {_ROWS}, the weights of a byte. Nearest: none."
                )

    def options(self) -> dict[str, Any]:
        """Return the value of "quantization_config" of config.json."""
        return {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}

    def layout(self, tensor: Tensor) -> dict[str, tuple[Shape, str]]:
        """Return the shapes and types of the bytes and of the scale, by name."""
        outputs, inputs = tensor.shape
        return {tensor.name: ((outputs // _ROWS, inputs), "uint8"), tensor.name + _SCALE: ((1,), "float32")}

    def stored(self, name: str, weight: np.ndarray) -> dict[str, np.ndarray]:
        """Return the bytes and the scale of a weight [O I]."""
        weights, scale = jax.device_get(_rounded(weight.T))
        return {name: pack(weights.T), name + _SCALE: scale.reshape(1)}

    def check(self, directory: Path) -> str:
        """Read the written weights back, and return a line about them. Raises Failure if a file does not hold what was written."""
        values = 0
        for file in sorted(directory.glob("*.safetensors")):
            with safe_open(file, framework="numpy") as opened:
                for name in self.quantized.keys() & set(opened.keys()):
                    weights = unpack(opened.get_tensor(name))
                    if weights.shape != self.quantized[name].shape or weights.max(initial=0) > 1:
                        raise Failure(f"{file}: the weight {name} was not written correctly")
                    values += weights.size
        return f"{len(self.quantized)} weights with {values:,} values are packed, four in a byte"


_rounded = jax.jit(ternary)
