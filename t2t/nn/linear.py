"""Matrix products."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from t2t.nn.initializers import ZEROS, Initializer
from t2t.nn.parameters import parameter


def matmul(x: Float[Array, "*B I"], kernel: Float[Array, "I O"], dtype: Any = None) -> Float[Array, "*B O"]:
    """Multiply in the type of `x`, giving `dtype`, or where that is None the same type.

    All leading axes are made one first: XLA's CPU matrix product is 1.3 to 1.7 times faster on two dimensions.
    """
    flat = jnp.dot(x.reshape(-1, x.shape[-1]), kernel.astype(x.dtype), preferred_element_type=dtype)
    return flat.reshape(*x.shape[:-1], kernel.shape[-1])


class Linear(nnx.Module):
    """`x @ kernel + bias`, in the type of x.

    axes: logical axes of the kernel's two dimensions.
    """

    def __init__(
        self, inputs: int, outputs: int, axes: tuple[str | None, str | None], *, bias: bool, init: Initializer
    ) -> None:
        self.kernel = parameter((inputs, outputs), axes, init)
        self.bias = parameter((outputs,), axes[1:], ZEROS, decay=False) if bias else None

    def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        """Apply to the last axis."""
        y = matmul(x, self.kernel[...])
        return y if self.bias is None else y + self.bias[...].astype(y.dtype)
