"""Weight-decomposed low-rank adapters (DoRA, Liu et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from t2t.nn.adapters.lora import LoRA
from t2t.nn.initializers import ONES
from t2t.nn.linear import Linear
from t2t.nn.parameters import parameter


class DoRA(LoRA):
    """LoRA whose sum with the kernel has trained norms: `magnitude * (kernel + scale * a @ b) / norm` (Liu et al. 2024, equation 5).

    `norm` is the Euclidean norm of the sum's column of each output. It counts as a constant in the gradient (section 4.3). It is computed from products
    with `a` and `b`, not from the sum. `magnitude` starts as the norm of the kernel's columns, so the layer starts as its base layer, up to rounding.
    """

    def __init__(
        self, inputs: int, outputs: int, axes: tuple[str | None, str | None], *, rank: int, scale: float, dropout: float
    ) -> None:
        super().__init__(inputs, outputs, axes, rank=rank, scale=scale, dropout=dropout)
        self.magnitude = parameter((outputs,), axes[1:], ONES, decay=False)

    def __call__(self, x: Float[Array, "*B I"], linear: Linear) -> Float[Array, "*B O"]:
        """Add the low-rank product, and give each output its magnitude."""
        ratio = self.magnitude[...] / jax.lax.stop_gradient(self._norm(linear.kernel[...]))
        y = linear.product(x) + self.low_rank(x)
        return linear.biased(y * ratio.astype(y.dtype))

    def started(self, kernel: Callable[[], Float[Array, "*L I O"]]) -> dict[str, Any]:
        """Return the initial magnitude: the norms of the kernel's columns."""
        return {"magnitude": jnp.sqrt(jnp.sum(jnp.square(kernel().astype(jnp.float32)), axis=-2))}

    def merged(
        self, kernel: Float[Array, "*L I O"], bias: Float[Array, "*L O"] | None
    ) -> tuple[Float[Array, "*L I O"], Float[Array, "*L O"] | None]:
        """Return the sum with its magnitude, in float32, and the bias."""
        total, _ = super().merged(kernel, bias)
        return total * (self.magnitude[...] / self._norm(kernel))[..., None, :], bias

    def _norm(self, kernel: Float[Array, "*L I O"]) -> Float[Array, "*L O"]:
        """Return the norm of each column of `kernel + scale * a @ b`."""
        kernel, a, b = kernel.astype(jnp.float32), self.a[...], self.b[...]
        transposed = jnp.swapaxes(a, -1, -2)
        mixed = jnp.matmul(transposed, kernel, precision="highest")
        own = jnp.matmul(jnp.matmul(transposed, a, precision="highest"), b, precision="highest")
        squares = jnp.sum(kernel * kernel, axis=-2)
        squares += self.scale * jnp.sum(b * (2 * mixed + self.scale * own), axis=-2)
        return jnp.sqrt(jnp.maximum(squares, jnp.finfo(jnp.float32).tiny))
