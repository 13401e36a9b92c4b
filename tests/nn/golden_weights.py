"""Expected codes and scales of quantized kernels, from bitsandbytes 0.50.0 on a CPU.

To update them, run `python -m tests.nn.golden_weights` in the repository root, with bitsandbytes and torch installed.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).parent / "golden_weights.json"
SHAPES = ((48, 192), (200, 256))
"""Outputs and inputs. The second has more than one block of scales."""


def weight(outputs: int, inputs: int) -> np.ndarray:
    """Return a float32 matrix [O I] with long tails, a group of zeros and a row of different size, the same on every machine."""
    numbers = np.arange(outputs * inputs, dtype=np.uint64) * np.uint64(2654435761) % np.uint64(65521)
    uniform = (numbers.astype(np.float64) / 65521 * 2 - 1).reshape(outputs, inputs)
    made = (0.05 * (uniform + uniform**9)).astype(np.float32)
    made[1, :64] = 0
    made[2] *= np.float32(30)
    return made


def text(values: np.ndarray) -> str:
    """Return the bytes of an array as text."""
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def digest(values: np.ndarray) -> str:
    """Return the SHA-256 of the bytes of an array."""
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def read() -> dict[str, Any]:
    """Return the stored values."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def main() -> None:
    """Write the codes and scales."""
    import bitsandbytes
    import torch

    found: dict[str, Any] = {}
    for shape in SHAPES:
        matrix = torch.from_numpy(weight(*shape))
        codes, state = bitsandbytes.functional.quantize_4bit(
            matrix, blocksize=64, compress_statistics=True, quant_type="nf4"
        )
        integers, largest, _ = bitsandbytes.functional.int8_vectorwise_quant(matrix)
        back = bitsandbytes.functional.dequantize_4bit(codes, state)
        found["x".join(map(str, shape))] = {
            "codes": digest(codes.numpy()),
            "scales": text(state.absmax.numpy()),
            "scale_scales": [float(value) for value in state.state2.absmax],
            "scale_mean": float(state.offset),
            "dequantized": [float(value) for value in back.flatten()[::97]],
            "int8_codes": digest(integers.numpy()),
            "int8_largest": [float(value) for value in largest],
        }
    found["dynamic_levels"] = [float(value) for value in bitsandbytes.functional.create_dynamic_map()]
    FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
