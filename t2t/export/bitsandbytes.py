"""Weights of linear layers in NF4 with double quantization, in the layout of bitsandbytes that `transformers` reads (`BitsAndBytesConfig`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import safe_open

from t2t.errors import Failure, UserError
from t2t.export.mapping import Shape, Tensor
from t2t.export.quantized_tensors import QuantizedTensors, check_linear
from t2t.nn.model import ModelConfig
from t2t.nn.weights import quantized
from t2t.nn.weights.nf4 import DYNAMIC_LEVELS, LEVELS, SCALES_IN_BLOCK
from t2t.nn.weights.packing import GROUP

_STATE = "quant_state.bitsandbytes__nf4"
_STATE_BYTES = 256
"""Size of the JSON text of a tensor's state, filled with spaces: its length must be known before its numbers are."""
_KEPT = ".wo.weight"
"""Weights that `transformers` keeps in float32 in all models of the T5 family (`_keep_in_fp32_modules`)."""


class NF4Tensors(QuantizedTensors):
    """The tensors of a model whose linear layers in stacks of layers are quantized. All other tensors are floats.

    Raises UserError if bitsandbytes has no such form of a weight.
    """

    def __init__(self, config: ModelConfig, wanted: Sequence[Tensor], *, dtype: str) -> None:
        kernels = config.build().quantized("nf4").quantized_kernels
        found = {
            tensor.name: tensor
            for tensor in wanted
            if kernels.issuperset(tensor.ours) and not tensor.name.endswith(_KEPT)
        }
        super().__init__(wanted, found, dtype=dtype)
        check_linear(found, "nf4")
        for name, tensor in found.items():
            if tensor.shape[1] % GROUP:
                raise UserError(
                    f"--quantize nf4: {name} has {tensor.shape[1]} inputs, which is no multiple of {GROUP}: the blocks of bitsandbytes would cross outputs."
                    " Nearest: --quantize none."
                )

    def options(self) -> dict[str, Any]:
        """Return the value of "quantization_config" of config.json."""
        return {
            "quant_method": "bitsandbytes",
            "load_in_4bit": True,
            "load_in_8bit": False,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": self.dtype,
            "bnb_4bit_quant_storage": "uint8",
            "llm_int8_skip_modules": self.float_modules(),
        }

    def check(self, directory: Path) -> str:
        """Read the written weights back, and return a line about them. Raises Failure if a file does not hold what was written."""
        values = 0
        for file in sorted(directory.glob("*.safetensors")):
            with safe_open(file, framework="numpy") as opened:
                for name in self.quantized.keys() & set(opened.keys()):
                    state = json.loads(bytes(opened.get_tensor(f"{name}.{_STATE}")))
                    codes = opened.get_tensor(name)
                    if state["shape"] != list(self.quantized[name].shape) or 2 * codes.size != np.prod(state["shape"]):
                        raise Failure(f"{file}: the weight {name} was not written correctly")
                    values += 2 * codes.size
        return f"{len(self.quantized)} weights with {values:,} values are in NF4"

    def layout(self, tensor: Tensor) -> dict[str, tuple[Shape, str]]:
        """Return the shapes and types of the tensors that store a weight, by name."""
        outputs, inputs = tensor.shape
        scales = outputs * inputs // GROUP
        name = tensor.name
        return {
            name: ((outputs * inputs // 2, 1), "uint8"),
            f"{name}.absmax": ((scales,), "uint8"),
            f"{name}.nested_absmax": ((-(-scales // SCALES_IN_BLOCK),), "float32"),
            f"{name}.nested_quant_map": ((len(DYNAMIC_LEVELS),), "float32"),
            f"{name}.quant_map": ((len(LEVELS),), "float32"),
            f"{name}.{_STATE}": ((_STATE_BYTES,), "uint8"),
        }

    def stored(self, name: str, weight: np.ndarray) -> dict[str, np.ndarray]:
        """Return the codes, the scales, and the state that bitsandbytes reads."""
        parts = {part: np.asarray(value) for part, value in jax.device_get(quantized("nf4", weight.T)).items()}
        state = {
            "quant_type": "nf4",
            "blocksize": GROUP,
            "dtype": self.dtype,
            "shape": list(weight.shape),
            "nested_blocksize": SCALES_IN_BLOCK,
            "nested_dtype": "float32",
            "nested_offset": float(parts["scale_mean"]),
        }
        text = json.dumps(state).encode().ljust(_STATE_BYTES)
        return {
            name: parts["codes"].reshape(-1, 1),
            f"{name}.absmax": parts["scales"].reshape(-1),
            f"{name}.nested_absmax": parts["scale_scales"],
            f"{name}.nested_quant_map": DYNAMIC_LEVELS,
            f"{name}.quant_map": LEVELS,
            f"{name}.{_STATE}": np.frombuffer(text, np.uint8),
        }
