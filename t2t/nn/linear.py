"""Matrix products."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from t2t.nn.initializers import ZEROS, Initializer
from t2t.nn.parameters import parameter
from t2t.nn.quantized import Quantization, check_installed, quantized_matmul


def matmul(
    x: Float[Array, "*B I"], kernel: Float[Array, "I O"], dtype: Any = None, *, quantization: Quantization = "none"
) -> Float[Array, "*B O"]:
    """Multiply in the type of `x`, giving `dtype`, or where that is None the same type; in eight bits where `quantization` says so.

    All leading axes are made one first: XLA's CPU matrix product is 1.3 to 1.7 times faster on two dimensions.
    """
    flat = x.reshape(-1, x.shape[-1])
    if quantization == "none":
        flat = jnp.dot(flat, kernel.astype(x.dtype), preferred_element_type=dtype)
    else:
        assert dtype is None, "products in eight bits give the type of x"
        flat = quantized_matmul(flat, kernel, quantization)
    return flat.reshape(*x.shape[:-1], kernel.shape[-1])


class Linear(nnx.Module):
    """`x @ kernel + bias`, in the type of x.

    axes: logical axes of the kernel's two dimensions.
    quantization: of the product, forward and backward; see `t2t.nn.quantized.quantized_matmul`. Parameters are float32 in any case.

    Raises:
        UserError: the library that quantizes is not installed.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        axes: tuple[str | None, str | None],
        *,
        bias: bool,
        init: Initializer,
        quantization: Quantization = "none",
    ) -> None:
        check_installed(quantization)
        self.quantization: Quantization = quantization
        self.kernel = parameter((inputs, outputs), axes, init)
        self.bias = parameter((outputs,), axes[1:], ZEROS, decay=False) if bias else None

    def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        """Apply to the last axis."""
        y = matmul(x, self.kernel[...], quantization=self.quantization)
        return y if self.bias is None else y + self.bias[...].astype(y.dtype)
