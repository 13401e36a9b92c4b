"""Kernels as the ternary weights to which BitNet's products round them (`t2t.nn.ternary`), in two bits each, with one scale for the whole kernel."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from t2t.nn.ternary import rounded_matmul, ternary
from t2t.nn.weights.format import Format, Multiply, Part
from t2t.nn.weights.packing import packed, unpacked

_BITS = 2
_SMALLEST_SHARE = 1e-9


@dataclass(frozen=True)
class Ternary(Format):
    """`weight * scale`, with the weights -1, 0 and 1. For models whose products round kernels in this way: their results stay the same."""

    def parts(self, inputs: int, outputs: int, axes: tuple[str | None, str | None]) -> dict[str, Part]:
        """Return the arrays: "codes" [O I/4], four weights plus 1 in each byte, and "scale" []."""
        per_byte = 8 // _BITS
        return {
            "codes": Part(
                shape=(outputs, -(-inputs // per_byte)), axes=axes[::-1], dtype=jnp.uint8, stands_for=float(per_byte)
            ),
            "scale": Part(shape=(), axes=(), dtype=jnp.float32),
        }

    def quantize(self, weight: Float[Array, "O I"]) -> dict[str, jax.Array]:
        """Return the arrays that store a transposed kernel. It is rounded as the products round it, not to the nearest value."""
        weights, scale = ternary(weight.T)
        return {"codes": packed((weights.T + 1.0).astype(jnp.uint8), _BITS), "scale": scale}

    def dequantize(self, parts: dict[str, jax.Array], inputs: int) -> Float[Array, "O I"]:
        """Return a transposed float32 kernel that the products round to the same weights and scale: the mean of its absolute values is the scale."""
        weights = self._weights(parts, inputs)
        return weights * (parts["scale"] / jnp.maximum(jnp.mean(jnp.abs(weights)), _SMALLEST_SHARE))

    def product(
        self, x: Float[Array, "*B I"], parts: dict[str, jax.Array], inputs: int, multiply: Multiply
    ) -> Float[Array, "*B O"]:
        """Return the product with the stored weights and scale, which are not rounded again. `multiply` is `ternary_matmul` for rows in all models that have this format."""
        rows = x.reshape(-1, inputs)
        weights = self._weights(parts, inputs)
        return rounded_matmul(rows, weights.T, parts["scale"]).reshape(*x.shape[:-1], weights.shape[0])

    def _weights(self, parts: dict[str, jax.Array], inputs: int) -> Float[Array, "O I"]:
        return unpacked(parts["codes"], inputs, _BITS).astype(jnp.float32) - 1.0
