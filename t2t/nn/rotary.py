"""Rotary positions (Su et al. 2021, "RoFormer"): queries and keys turned by angles that grow with their positions.

The two halves of a head are the coordinates that turn together, as in the published weights of LLaMA in `transformers`' layout. Meta's own files
and GGUF have even and odd entries turn together: the same model with the rows of the queries' and keys' kernels in another order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from t2t.errors import UserError, nearest
from t2t.limits import Configuration, Length, Range

Scaling = Literal["none", "linear", "llama3"]
Turns = tuple[Float[Array, "B L half"], Float[Array, "B L half"]]
"""Cosine and sine of each position's angles, float32."""


@dataclass(frozen=True, kw_only=True)
class Rotary(Configuration):
    """How fast the coordinates turn.

    Args:
        base: coordinate pair i of n turns by base ** (-i / n) radians a position (theta).
        factor: see `scaling`.
        low: see `scaling`.
        high: see `scaling`.
        original_length: see `scaling`.
        scaling: "none"; "linear": positions divided by `factor` (Chen et al. 2023); "llama3": only slow coordinates are slowed by `factor`: those that turn less than
            `low` times within `original_length` positions wholly, those that turn more than `high` times not at all (Llama 3.1).
    """

    base: Annotated[float, Range(1.01, 1e12)] = 10_000.0
    scaling: Scaling = "none"
    factor: Annotated[float, Range(1.0, 1e6)] = 1.0
    low: Annotated[float, Range(1e-6, 1e6)] = 1.0
    high: Annotated[float, Range(1e-6, 1e6)] = 4.0
    original_length: Length = 8192

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scaling not in get_args(Scaling):
            raise UserError(
                f"unknown scaling {self.scaling!r} (model.rotary.scaling).{nearest(self.scaling, get_args(Scaling))}"
            )
        if self.scaling == "llama3" and not self.low < self.high:
            raise UserError(f"model.rotary.low is {self.low}; it must be less than model.rotary.high = {self.high}")

    def frequencies(self, head_dim: int) -> np.ndarray:
        """Return the radians a position of each of the head_dim / 2 coordinate pairs, float32."""
        turn = self.base ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
        if self.scaling == "linear":
            turn = turn / self.factor
        elif self.scaling == "llama3":
            turns = self.original_length * turn / (2 * math.pi)
            kept = np.clip((turns - self.low) / (self.high - self.low), 0.0, 1.0)
            turn = kept * turn + (1.0 - kept) * turn / self.factor
        return turn.astype(np.float32)

    def turns(self, positions: Int[Array, "B L"], head_dim: int) -> Turns:
        """Return cosine and sine of the angles at `positions`."""
        angles = positions[..., None].astype(jnp.float32) * jnp.asarray(self.frequencies(head_dim))
        return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Float[Array, "B L H D"], turns: Turns) -> Float[Array, "B L H D"]:
    """Turn each head's coordinates, in float32; the result has the type of `x`."""
    cos, sin = (part[:, :, None] for part in turns)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def shuffled(kernel: jax.Array | np.ndarray, heads: int, *, to_halves: bool) -> np.ndarray:
    """Return a kernel [heads * D, ...] with each head's rows from even-and-odd order to halves, or back.

    to_halves: True from Meta's and GGUF's order to that of this module.
    """
    rows = np.asarray(kernel).reshape(heads, -1, *kernel.shape[1:])
    size = rows.shape[1]
    shape = (heads, size // 2, 2) if to_halves else (heads, 2, size // 2)
    return np.swapaxes(rows.reshape(*shape, *kernel.shape[1:]), 1, 2).reshape(kernel.shape)
