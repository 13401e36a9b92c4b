"""Kernels as integers of eight or four bits, with one scale for each output or for each group of inputs of an output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

from t2t.nn.weights.format import Format, Part
from t2t.nn.weights.packing import GROUP, grouped, groups, packed, ungrouped, unpacked


@dataclass(frozen=True)
class Integers(Format):
    """`code * scale`, with codes between -127 and 127, or between -7 and 7. The scale is the largest absolute value divided by the largest code.

    bits:       8 or 4.
    per_group:  a scale for each group of inputs of an output; otherwise one for each output (LLM.int8, Dettmers et al. 2022, section 2.2).
    """

    bits: int
    per_group: bool

    @property
    def largest(self) -> int:
        """The largest code."""
        return 2 ** (self.bits - 1) - 1

    def parts(self, inputs: int, outputs: int, axes: tuple[str | None, str | None]) -> dict[str, Part]:
        """Return the arrays: "codes" [O I], or [O I/2] with four bits, and "scales" [O G]."""
        halved = self.bits == 4
        return {
            "codes": Part(
                shape=(outputs, -(-inputs // 2) if halved else inputs),
                axes=axes[::-1],
                dtype=jnp.uint8 if halved else jnp.int8,
                stands_for=2.0 if halved else 1.0,
            ),
            "scales": Part(
                shape=(outputs, groups(inputs) if self.per_group else 1), axes=(axes[1], None), dtype=jnp.float32
            ),
        }

    def quantize(self, weight: Float[Array, "O I"]) -> dict[str, jax.Array]:
        """Return the arrays that store a transposed kernel."""
        inputs = weight.shape[1]
        values = grouped(weight, self.group_size(inputs))
        largest = jnp.max(jnp.abs(values), axis=-1, keepdims=True)
        # A group of zeros has the scale 0, and any factor.
        factor = jnp.float32(self.largest) / jnp.where(largest == 0, 1.0, largest)
        return self.stored(ungrouped(jnp.round(values * factor), inputs), self.scales(values))

    def scales(self, values: Float[Array, "*B S"]) -> Float[Array, "*B"]:
        """Return the scales of groups of values."""
        return jnp.max(jnp.abs(values), axis=-1) / jnp.float32(self.largest)

    def stored(self, codes: Float[Array, "O I"], scales: Float[Array, "O G"]) -> dict[str, jax.Array]:
        """Return the arrays that store these codes, which are integers."""
        if self.bits == 4:
            return {"codes": packed((codes + 8).astype(jnp.uint8)), "scales": scales}
        return {"codes": codes.astype(jnp.int8), "scales": scales}

    def dequantize(self, parts: dict[str, jax.Array], inputs: int) -> Float[Array, "O I"]:
        """Return the transposed kernel in float32."""
        values, scales = self.codes(parts, inputs).astype(jnp.float32), parts["scales"]
        if not self.per_group:
            return values * scales
        return ungrouped(grouped(values, GROUP) * scales[..., None], inputs)

    def codes(self, parts: Mapping[str, jax.Array], inputs: int) -> Int8[Array, "O I"]:
        """Return the codes of a transposed kernel as integers."""
        if self.bits == 4:
            return unpacked(parts["codes"], inputs).astype(jnp.int8) - jnp.int8(8)
        return parts["codes"]

    def group_size(self, inputs: int) -> int:
        """Return the number of inputs that have one scale."""
        return GROUP if self.per_group else inputs
