"""Reading of tensors in MXFP4, as the experts of gpt-oss are published (Open Compute Project 2023, "OCP Microscaling Formats (MX)").

A tensor NAME is two tensors of bytes. NAME_blocks [E R G 16] has R rows of G blocks of 32 numbers, two in each byte, the lower half first; a number is a
sign, two bits of exponent and one of mantissa. NAME_scales [E R G] has the exponent of each block plus 127. The value is the transpose, [E 32 G, R]. All
values are exact in bfloat16 and float32.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from t2t.errors import UserError
from t2t.export.tensor_files import TensorFiles

_POSITIVE = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_VALUES = np.array([*_POSITIVE, *(-value for value in _POSITIVE)], np.float32)
_BLOCKS, _SCALES = "_blocks", "_scales"
_BLOCK = 32


class Unpacked:
    """The tensors of a directory, those in MXFP4 as float32 under their own names. A tensor uses memory only while its array exists.

    Raises UserError, naming the tensor, if one of the two parts is missing or has another shape or type.
    """

    def __init__(self, files: TensorFiles) -> None:
        self.directory: Path = files.directory
        self._files = files
        stored = set(files.names)
        self._packed = {name.removesuffix(_BLOCKS) for name in stored if name.endswith(_BLOCKS)}
        for name in sorted(self._packed):
            if name + _SCALES not in stored:
                raise UserError(f"{self.directory}: tensor {name + _SCALES} is missing, and {name + _BLOCKS} needs it")
            blocks, scales = files.shape(name + _BLOCKS), files.shape(name + _SCALES)
            if len(blocks) != 4 or blocks[3] != _BLOCK // 2 or blocks[:3] != scales:
                raise UserError(
                    f"{self.directory}: tensor {name + _BLOCKS} has shape {blocks}, and {name + _SCALES} has {scales}; expected E x R x G x 16 and E x R x G"
                )
        parts = {name + part for name in self._packed for part in (_BLOCKS, _SCALES)}
        self._names = sorted(stored - parts | self._packed)

    @property
    def names(self) -> Collection[str]:
        """The names of all tensors."""
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape without reading it."""
        if name not in self._packed:
            return self._files.shape(name)
        experts, rows, blocks, _ = self._files.shape(name + _BLOCKS)
        return experts, blocks * _BLOCK, rows

    def equal(self, one: str, other: str) -> bool:
        """Whether two tensors are equal."""
        return self.shape(one) == self.shape(other) and np.array_equal(self.read(one), self.read(other))

    def read(self, name: str) -> np.ndarray:
        """Return a tensor in its stored type, or in float32. Raises UserError if the stored type is not supported."""
        if name not in self._packed:
            return self._files.read(name)
        return unpack(self._files.read_bytes(name + _BLOCKS), self._files.read_bytes(name + _SCALES))


def unpacked(files: Any) -> Any:
    """Return the tensors with those in MXFP4 as float32; `files` itself if there are none."""
    packed = isinstance(files, TensorFiles) and any(name.endswith(_BLOCKS) for name in files.names)
    return Unpacked(files) if packed else files


def unpack(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Return the float32 values [E 32 G, R] of bytes `blocks` [E R G 16] and `scales` [E R G]."""
    experts, rows, count, half = blocks.shape
    values = np.empty((experts, rows, count, 2 * half), np.float32)
    values[..., 0::2] = _VALUES[blocks & 15]
    values[..., 1::2] = _VALUES[blocks >> 4]
    np.ldexp(values, scales.astype(np.int32)[..., None] - 127, out=values)
    return np.swapaxes(values.reshape(experts, rows, -1), 1, 2)
