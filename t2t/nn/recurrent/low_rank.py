"""A small MLP with a narrow inner layer that computes one number for each channel, such as its decay (Peng et al. 2025, equation 2)."""

from __future__ import annotations

from collections.abc import Callable

import jax
from flax import nnx
from jaxtyping import Array, Float

from t2t.nn.initializers import ZEROS, Initializer
from t2t.nn.linear import Linear
from t2t.nn.mixers import BuildOptions
from t2t.nn.parameters import parameter


class LowRank(nnx.Module):
    """`offset + up(activation(down(x)))`. It begins with the offset.

    rank:       width of the inner layer.
    offset:     initializer of the offset, one number for each channel. None means that there is none.
    activation: activation of the inner layer. None means none.
    """

    def __init__(
        self,
        options: BuildOptions,
        rank: int,
        *,
        offset: Initializer | None,
        activation: Callable[[jax.Array], jax.Array] | None = None,
    ) -> None:
        width, self.activation = options.width, activation
        self.down = Linear(width, rank, ("embed", None), bias=False, init=ZEROS, quantization=options.quantization)
        self.up = Linear(
            rank,
            width,
            (None, "heads"),
            bias=False,
            init=options.kernel_init(rank, shrink=0.1),
            quantization=options.quantization,
        )
        self.offset = None if offset is None else parameter((width,), ("heads",), offset, decay=False)

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """Apply to the last axis."""
        inner = self.down(x)
        y = self.up(inner if self.activation is None else self.activation(inner))
        return y if self.offset is None else y + self.offset[...]
