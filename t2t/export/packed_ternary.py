"""Reading of ternary weights that are packed in bytes, as BitNet b1.58 2B4T is published (https://arxiv.org/abs/2504.12285).

A tensor NAME.weight [O I] is bytes [O/4 I] and NAME.weight_scale [1]. A byte has four weights plus one, in two bits each: bits 2i and 2i + 1 are those of row
i O/4 + j, where j is the row of the byte.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from t2t.errors import UserError
from t2t.export.pickled_files import PickledFiles
from t2t.export.tensor_files import TensorFiles

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
