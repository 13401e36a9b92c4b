"""NormalFloat of four bits with double quantization (QLoRA, Dettmers et al. 2023, section 3). Codes and scales are those of bitsandbytes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from t2t.nn.weights.format import Format, Part
from t2t.nn.weights.packing import GROUP, grouped, groups, packed, ungrouped, unpacked

LEVELS = np.array(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ],
    np.float32,
)
"""The values of the 16 codes: quantiles of the normal distribution, scaled to [-1, 1] (Dettmers et al. 2023, appendix E)."""
BORDERS = (LEVELS[1:] + LEVELS[:-1]) / np.float32(2)
"""A value has as many borders below it as its code."""
SCALES_IN_BLOCK = 256
"""Number of consecutive scales of a kernel that have one scale of their own."""


def _dynamic_levels() -> np.ndarray:
    """Return the values of the 256 codes of scales: a sign, a decimal exponent, and a fraction with the bits that the exponent leaves (Dettmers 2016)."""
    positive: list[float] = []
    for exponent in range(7):
        edges = _even(np.float32(0.1), np.float32(1.0), 2**exponent)
        means = (edges[:-1] + edges[1:]) / np.float32(2)
        positive += [float(mean) for mean in np.float32(10.0 ** (exponent - 6)) * means]
    return np.array(sorted([*(-value for value in positive), 0.0, *positive, 1.0]), np.float32)


def _even(low: np.float32, high: np.float32, count: int) -> np.ndarray:
    """Return the edges of `count` equal intervals. Each half is counted from its own end, in float32 with one rounding, as PyTorch does: the levels are the same."""
    step = np.float64((high - low) / np.float32(count))
    places = np.arange(count + 1)
    below = places < (count + 1) // 2
    return np.where(below, low + step * places, high - step * (count - places)).astype(np.float32)


DYNAMIC_LEVELS = _dynamic_levels()
DYNAMIC_BORDERS = (DYNAMIC_LEVELS[1:] + DYNAMIC_LEVELS[:-1]) / np.float32(2)


class NF4(Format):
    """`level[code] * scale` in groups of 64 inputs. The scale is the largest absolute value, stored as a code of eight bits.

    A scale is `dynamic_level[code] * scale of 256 scales + mean of all scales`.
    """

    def parts(self, inputs: int, outputs: int, axes: tuple[str | None, str | None]) -> dict[str, Part]:
        """Return the arrays: "codes" [O I/2], "scales" [O G] (codes), "scale_scales" (one for 256 scales) and "scale_mean" (a scalar)."""
        scales = (outputs, groups(inputs))
        blocks = -(-scales[0] * scales[1] // SCALES_IN_BLOCK)
        return {
            "codes": Part(shape=(outputs, -(-inputs // 2)), axes=axes[::-1], dtype=jnp.uint8, stands_for=2.0),
            # A block of scales crosses outputs, so scales are not divided over devices. They are 3% of the codes.
            "scales": Part(shape=scales, axes=(None, None), dtype=jnp.uint8),
            "scale_scales": Part(shape=(blocks,), axes=(None,), dtype=jnp.float32),
            "scale_mean": Part(shape=(), axes=(), dtype=jnp.float32),
        }

    def quantize(self, weight: Float[Array, "O I"]) -> dict[str, jax.Array]:
        """Return the arrays that store a transposed kernel."""
        inputs = weight.shape[1]
        values = grouped(weight, GROUP)
        scales = jnp.max(jnp.abs(values), axis=-1)
        # The reciprocal first, as in bitsandbytes: the quotient may be rounded to another code.
        scaled = values * _reciprocal(scales)[..., None]
        codes = sum((scaled > border).astype(jnp.uint8) for border in BORDERS)
        mean = jnp.mean(scales)
        blocks = _blocks(scales - mean)
        largest = jnp.max(jnp.abs(blocks), axis=-1)
        scale_codes = jnp.searchsorted(DYNAMIC_BORDERS, blocks * _reciprocal(largest)[:, None], side="left")
        return {
            "codes": packed(ungrouped(jnp.asarray(codes), inputs)),
            "scales": _unblocked(scale_codes.astype(jnp.uint8), scales.shape),
            "scale_scales": largest,
            "scale_mean": mean,
        }

    def dequantize(self, parts: dict[str, jax.Array], inputs: int) -> Float[Array, "O I"]:
        """Return the transposed kernel in float32."""
        codes = parts["scales"]
        blocks = jnp.asarray(DYNAMIC_LEVELS)[_blocks(codes)] * parts["scale_scales"][:, None]
        scales = _unblocked(blocks, codes.shape) + parts["scale_mean"]
        # On CPUs, a lookup takes a quarter of the time of selections by the bits of a code.
        values = grouped(jnp.asarray(LEVELS)[unpacked(parts["codes"], inputs)], GROUP)
        return ungrouped(values * scales[..., None], inputs)


def _reciprocal(scales: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """Return 1 / scale. A group of zeros may have any factor."""
    return jnp.float32(1) / jnp.where(scales == 0, jnp.float32(1), scales)


def _blocks(scales: jax.Array) -> jax.Array:
    """Return the scales of a kernel in rows of 256. The last row is filled with zeros."""
    flat = scales.reshape(-1)
    return jnp.pad(flat, (0, -flat.shape[0] % SCALES_IN_BLOCK)).reshape(-1, SCALES_IN_BLOCK)


def _unblocked(blocks: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Invert `_blocks`."""
    return blocks.reshape(-1)[: shape[0] * shape[1]].reshape(shape)
