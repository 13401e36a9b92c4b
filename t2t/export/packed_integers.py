"""Weights of linear layers as packed integers, in the layout of compressed-tensors that `transformers` and vLLM read (format "pack-quantized").

A weight NAME.weight [O I] is NAME.weight_packed, int32 [O W], NAME.weight_scale [O G] and NAME.weight_shape, the two numbers O and I. A word of 32 bits has
eight codes of four bits or four codes of eight bits, the first code in the lowest bits. A code is stored as code + 8 or code + 128, so there are no zero points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import safe_open

from t2t.errors import Failure, UserError
from t2t.export.mapping import Shape, Tensor
from t2t.export.quantized_tensors import QuantizedTensors, check_linear
from t2t.nn.model import ModelConfig
from t2t.nn.weights import FORMATS, quantized
from t2t.nn.weights.integers import Integers
from t2t.nn.weights.packing import GROUP, groups

PACKED = tuple(name for name, format in FORMATS.items() if isinstance(format, Integers))
"""The formats that have this layout."""
_DEQUANTIZED = ("t5", "mt5", "umt5", "longt5", "modernbert", "mamba", "mamba2", "rwkv")
"""Model types whose classes in `transformers` read weights of linear layers while they load a model. They can be loaded only if the weights are dequantized at once."""
_WORD = 32


class PackedIntegers(QuantizedTensors):
    """The tensors of a model whose linear layers in stacks of layers are packed integers. All other tensors are floats.

    format: one of PACKED.
    model_type: that of config.json.
    codes:  parameters of the model (path -> array) of which some kernels are stored in `format`: their codes and scales are written as they are. Other kernels are
            rounded to the nearest values.

    Raises UserError if compressed-tensors has no such form of a weight.
    """

    def __init__(
        self,
        config: ModelConfig,
        wanted: Sequence[Tensor],
        *,
        dtype: str,
        format: str,
        model_type: str,
        codes: Mapping[str, Any] | None = None,
    ) -> None:
        integers = FORMATS[format]
        assert isinstance(integers, Integers), f"the codes of {format} are no integers"
        self.integers, self.format, self._codes = integers, format, codes or {}
        self._model_type = model_type
        kernels = config.build().quantized(format).quantized_kernels
        found = {tensor.name: tensor for tensor in wanted if kernels.issuperset(tensor.ours)}
        super().__init__(wanted, found, dtype=dtype)
        check_linear(found, format)
        for name, tensor in found.items():
            if integers.per_group and tensor.shape[1] % GROUP:
                raise UserError(
                    f"--quantize {format}: {name} has {tensor.shape[1]} inputs, which is no multiple of {GROUP}: compressed-tensors has no smaller last group."
                    f" Nearest: --quantize {format.removesuffix('_groups')}."
                )

    def options(self) -> dict[str, Any]:
        """Return the value of "quantization_config" of config.json."""
        by_group = self.integers.per_group
        weights = {
            "num_bits": self.integers.bits,
            "type": "int",
            "symmetric": True,
            "strategy": "group" if by_group else "channel",
            "group_size": GROUP if by_group else None,
            "dynamic": False,
        }
        group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
        dequantized = {"dequantize": True} if self._model_type in _DEQUANTIZED else {}
        return {
            **dequantized,
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "config_groups": {"group_0": group},
            "ignore": self.float_modules(),
            "kv_cache_scheme": None,
            "global_compression_ratio": None,
        }

    def layout(self, tensor: Tensor) -> dict[str, tuple[Shape, str]]:
        """Return the shapes and types of the tensors that store a weight, by name."""
        outputs, inputs = tensor.shape
        words = -(-inputs * self.integers.bits // _WORD)
        scales = groups(inputs) if self.integers.per_group else 1
        return {
            f"{tensor.name}_packed": ((outputs, words), "int32"),
            f"{tensor.name}_scale": ((outputs, scales), self.dtype),
            f"{tensor.name}_shape": ((2,), "int64"),
        }

    def stored(self, name: str, weight: np.ndarray) -> dict[str, np.ndarray]:
        """Return the words, the scales and the shape of a weight [O I]."""
        tensor = self.quantized[name]
        if all(f"{path}/codes" in self._codes for path in tensor.ours):
            codes, scales = self._own(tensor)
        else:
            parts = jax.device_get(quantized(self.format, weight.T))
            codes, scales = np.asarray(self.integers.codes(parts, weight.shape[1])), parts["scales"]
        return {
            f"{name}_packed": pack(codes, self.integers.bits),
            f"{name}_scale": np.asarray(scales),
            f"{name}_shape": np.array(tensor.shape, np.int64),
        }

    def check(self, directory: Path) -> str:
        """Read the written weights back, and return a line about them. Raises Failure if a file does not hold what was written."""
        values = 0
        for file in sorted(directory.glob("*.safetensors")):
            with safe_open(file, framework="numpy") as opened:
                names = set(opened.keys())
                for name in self.quantized:
                    if f"{name}_packed" not in names:
                        continue
                    shape = self.quantized[name].shape
                    codes = unpack(opened.get_tensor(f"{name}_packed"), shape[1], self.integers.bits)
                    if codes.shape != shape or np.abs(codes.astype(np.int16)).max(initial=0) > self.integers.largest:
                        raise Failure(f"{file}: the weight {name} was not written correctly")
                    values += codes.size
        return f"{len(self.quantized)} weights with {values:,} values are packed, {_WORD // self.integers.bits} in a word of 32 bits"

    def _own(self, tensor: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Return the codes [O I] and the scales [O G] of a weight that the parameters have in this format.

        The tables move only outputs of linear layers, so they apply to codes and scales as they do to a kernel.
        """
        found: list[dict[str, jax.Array]] = []
        for path, (inputs, _) in zip(tensor.ours, tensor.shapes, strict=True):
            whole = {name: self._codes[f"{path}/{name}"] for name in ("codes", "scales")}
            parts = {name: value if tensor.layer is None else value[tensor.layer] for name, value in whole.items()}
            found.append({**parts, "codes": self.integers.codes(parts, inputs)})
        codes, scales = (
            tensor.operation.to_theirs([np.asarray(parts[name]).T for parts in found]) for name in ("codes", "scales")
        )
        return codes, scales


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Return the words, int32 [O W], of integers [O I] of 4 or 8 bits. The last word of a row is filled with zeros."""
    count = _WORD // bits
    raised = (codes.astype(np.int16) + 2 ** (bits - 1)).astype(np.uint32)
    padded = np.pad(raised, ((0, 0), (0, -codes.shape[1] % count))).reshape(len(codes), -1, count)
    shifts = np.arange(0, _WORD, bits, dtype=np.uint32)
    words: np.ndarray = np.bitwise_or.reduce(padded << shifts, axis=-1)
    return words.view(np.int32)


def unpack(words: np.ndarray, inputs: int, bits: int) -> np.ndarray:
    """Return the integers, int8 [O I], of words [O W]."""
    shifts = np.arange(0, _WORD, bits, dtype=np.uint32)
    raised = (words.view(np.uint32)[..., None] >> shifts) & np.uint32(2**bits - 1)
    return (raised.reshape(len(words), -1)[:, :inputs].astype(np.int16) - 2 ** (bits - 1)).astype(np.int8)
