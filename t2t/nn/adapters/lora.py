"""Low-rank adapters (LoRA, Hu et al. 2021)."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from t2t.nn.dropout import adapter_key, dropout
from t2t.nn.initializers import ZEROS, Uniform
from t2t.nn.linear import Linear, LinearAdapter, matmul
from t2t.nn.parameters import parameter


class LoRA(LinearAdapter):
    """`x @ kernel + scale * (x @ a) @ b + bias` (Hu et al. 2021, section 4.1).

    `b` starts at zero, so the layer starts as its base layer, bit for bit. `a` starts uniform between -1/sqrt(inputs) and 1/sqrt(inputs), as in the paper's code.

    inputs, outputs: sizes of the kernel.
    axes:    logical axes of the kernel.
    rank:    width of `a` and height of `b`.
    scale:   factor on the low-rank product: alpha / rank, or alpha / sqrt(rank) for rsLoRA (Kalajdzievski 2023).
    dropout: dropout rate of the input of the low-rank product.
    """

    def __init__(
        self, inputs: int, outputs: int, axes: tuple[str | None, str | None], *, rank: int, scale: float, dropout: float
    ) -> None:
        self.scale, self.dropout = scale, dropout
        self.a = parameter((inputs, rank), (axes[0], None), Uniform(inputs**-0.5))
        self.b = parameter((rank, outputs), (None, axes[1]), ZEROS)

    def __call__(self, x: Float[Array, "*B I"], linear: Linear) -> Float[Array, "*B O"]:
        """Add the low-rank product."""
        return linear.biased(linear.product(x) + self.low_rank(x))

    def low_rank(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        """Return `scale * (x @ a) @ b`, in the type of `x`."""
        if self.dropout:
            x = dropout(x, self.dropout, adapter_key())
        return self.scale * matmul(matmul(x, self.a[...]), self.b[...])

    def merged(
        self, kernel: Float[Array, "*L I O"], bias: Float[Array, "*L O"] | None
    ) -> tuple[Float[Array, "*L I O"], Float[Array, "*L O"] | None]:
        """Return `kernel + scale * a @ b`, in float32, and the bias."""
        return kernel + self.scale * jnp.matmul(self.a[...], self.b[...], precision="highest"), bias
