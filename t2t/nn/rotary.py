"""Rotary positions (Su et al. 2021, "RoFormer"): rotate queries and keys by angles proportional to their positions.

Coordinate i of the first half of a head is paired with coordinate i of the second half, as in the published LLaMA weights in the layout of
`transformers`. Meta's own files and GGUF pair even and odd coordinates instead: this is the same model with the rows of the query and key kernels in
another order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from t2t.errors import UserError, nearest
from t2t.limits import Configuration, Length, Range

Scaling = Literal["none", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional"]
RotaryAngles = tuple[Float[Array, "B L half"], Float[Array, "B L half"]]
"""Cosine and sine of each position's angles, in float32."""

Factor = Annotated[float, Range(1e-6, 1e6)]


@dataclass(frozen=True, kw_only=True)
class Rotary(Configuration):
    """Frequencies of rotary positions. The scalings have the names of `ROPE_INIT_FUNCTIONS` in `transformers`.

    "dynamic" and "longrope" depend on the longest text of the batch. In decoding this is the length so far. Cached keys keep their rotation, as in
    `transformers`, so beyond `original_length` positions the decoding steps differ from one pass over the whole text.

    Args:
        base: coordinate pair i of n rotates by base ** (-i / n) radians per position (theta).
        factor: how much longer the context is than in training, see `scaling`.
        low: see `scaling`, "llama3".
        high: see `scaling`, "llama3".
        original_length: length of the context in training, before it was extended; see `scaling`.
        scaling: how to extend the context. "none": do not extend it. "linear": divide positions by `factor` (Chen et al. 2023). "dynamic": increase the base
            for texts longer than `original_length` (NTK-aware scaling). "yarn": keep the frequency of fast pairs, divide that of slow pairs by `factor`, and
            interpolate between `beta_fast` and `beta_slow` rotations in `original_length` positions (Peng et al. 2023). "longrope": divide the frequency of
            each pair by its entry of `long_factors`, or of `short_factors` if the text is not longer than `original_length` (Ding et al. 2024). "llama3":
            divide the frequency of pairs that rotate less than `low` times in `original_length` positions by `factor`, keep that of pairs that rotate more
            than `high` times, and interpolate in between (Llama 3.1). "proportional": rotate only the first `share` of the pairs, with the frequencies of a
            whole head divided by `factor` (Gemma 4).
        share: share of each head's coordinates that rotate, starting with the first; the others do not (partial rotary positions of GPT-NeoX).
        beta_fast: see `scaling`, "yarn".
        beta_slow: see `scaling`, "yarn".
        truncate: round the ends of the "yarn" ramp to whole pairs.
        attention_factor: factor on rotated queries and keys, for "yarn" and "longrope". None means the value that their papers derive from `factor`.
        mscale: for "yarn" without `attention_factor`: the factor on rotated queries and keys is (1 + 0.1 mscale log(factor)) / (1 + 0.1 mscale_all_dim
            log(factor)), if neither is 0 (DeepSeek-V2).
        mscale_all_dim: see `mscale`. Latent attention also multiplies its logits by the square of the divisor.
        long_factors: see `scaling`, "longrope"; one for each pair.
        short_factors: see `scaling`, "longrope"; one for each pair.
    """

    base: Annotated[float, Range(1.01, 1e12)] = 10_000.0
    scaling: Scaling = "none"
    factor: Annotated[float, Range(1.0, 1e6)] = 1.0
    low: Factor = 1.0
    high: Factor = 4.0
    original_length: Length = 8192
    share: Annotated[float, Range(0.01, 1.0)] = 1.0
    beta_fast: Factor = 32.0
    beta_slow: Factor = 1.0
    truncate: bool = True
    attention_factor: Factor | None = None
    mscale: Annotated[float, Range(0.0, 1e6)] = 0.0
    mscale_all_dim: Annotated[float, Range(0.0, 1e6)] = 0.0
    long_factors: tuple[Factor, ...] = ()
    short_factors: tuple[Factor, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scaling not in get_args(Scaling):
            raise UserError(
                f"unknown scaling {self.scaling!r} (model.rotary.scaling).{nearest(self.scaling, get_args(Scaling))}"
            )
        if self.scaling == "llama3" and not self.low < self.high:
            raise UserError(f"model.rotary.low is {self.low}; it must be less than model.rotary.high = {self.high}")
        if self.attention_factor is not None and self.scaling not in ("yarn", "longrope"):
            raise UserError(
                f"model.rotary.attention_factor is {self.attention_factor}, but model.rotary.scaling {self.scaling!r} does not use it. Nearest: yarn, longrope."
            )

        for name in ("mscale", "mscale_all_dim"):
            if getattr(self, name) and self.scaling != "yarn":
                raise UserError(
                    f"model.rotary.{name} is {getattr(self, name)}, but model.rotary.scaling {self.scaling!r} does not use it. Nearest: yarn."
                )

    def rotated_size(self, head_dim: int) -> int:
        """Return how many coordinates of a head rotate: an even number. Raises UserError if `share` does not give such a number."""
        size = head_dim if self.scaling == "proportional" else int(head_dim * self.share)
        least = 4 if self.scaling == "dynamic" else 2
        if size % 2 or size < least:
            raise UserError(
                f"model.rotary.share {self.share} of model.head_dim {head_dim} is {size} coordinates; rotary positions need an even number, at least {least}."
                " Nearest: 1.0."
                if self.share < 1.0 and self.scaling != "proportional"
                else f"model.head_dim is {head_dim}; rotary positions need an even one, at least {least}"
            )
        if self.scaling == "longrope":
            for name in ("long_factors", "short_factors"):
                if len(getattr(self, name)) != size // 2:
                    raise UserError(
                        f"model.rotary.{name} has {len(getattr(self, name))} numbers, and {size} coordinates rotate in pairs. Nearest: {size // 2}."
                    )
        return size

    def frequencies(self, head_dim: int, length: Int[Array, ""] | int | None = None) -> Any:
        """Return the frequency of each rotating coordinate pair in radians per position, float32.

        length: length of the longest text so far, which "dynamic" and "longrope" use. None means `original_length`.
        """
        size = self.rotated_size(head_dim)
        exponents = np.arange(0, size, 2, dtype=np.float64) / size
        frequency = self.base**-exponents
        if self.scaling == "dynamic" and length is not None:
            longest = jnp.maximum(jnp.asarray(length), self.original_length).astype(jnp.float32)
            growth = self.factor * longest / self.original_length - (self.factor - 1.0)
            return jnp.asarray(frequency, jnp.float32) * growth ** jnp.asarray(
                -exponents * size / (size - 2), jnp.float32
            )
        if self.scaling == "longrope":
            short, long = (
                (frequency / np.asarray(factors)).astype(np.float32)
                for factors in (self.short_factors, self.long_factors)
            )
            return short if length is None else jnp.where(jnp.asarray(length) > self.original_length, long, short)
        if self.scaling == "linear":
            frequency = frequency / self.factor
        elif self.scaling == "llama3":
            rotations = self.original_length * frequency / (2 * math.pi)
            weight = np.clip((rotations - self.low) / (self.high - self.low), 0.0, 1.0)
            frequency = weight * frequency + (1.0 - weight) * frequency / self.factor
        elif self.scaling == "yarn":
            ramp = self._ramp(size)
            frequency = frequency / self.factor * ramp + frequency * (1.0 - ramp)
        elif self.scaling == "proportional":
            frequency = np.where(np.arange(size // 2) < int(self.share * head_dim // 2), frequency, 0.0) / self.factor
        return frequency.astype(np.float32)

    @property
    def magnitude(self) -> float:
        """Factor on rotated queries and keys."""
        if self.scaling not in ("yarn", "longrope"):
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        if self.factor <= 1.0:
            return 1.0
        if self.scaling == "yarn" and self.mscale and self.mscale_all_dim:
            return self._growth(self.mscale) / self._growth(self.mscale_all_dim)
        if self.scaling == "yarn":
            return self._growth(1.0)
        return math.sqrt(1.0 + math.log(self.factor) / math.log(self.original_length))

    @property
    def logit_factor(self) -> float:
        """Factor on the logits of latent attention (DeepSeek-V2)."""
        return self._growth(self.mscale_all_dim) ** 2

    def _growth(self, scale: float) -> float:
        """Return 1 + 0.1 scale log(factor) (Peng et al. 2023, section 3.4)."""
        return 0.1 * scale * math.log(self.factor) + 1.0

    def angles(self, positions: Int[Array, "B L"], head_dim: int) -> RotaryAngles:
        """Return the cosine and sine of the angles at `positions`, multiplied by `magnitude`."""
        length = jnp.max(positions) + 1 if self.scaling in ("dynamic", "longrope") else None
        angles = positions[..., None].astype(jnp.float32) * jnp.asarray(self.frequencies(head_dim, length))
        cos, sin = jnp.cos(angles), jnp.sin(angles)
        return (cos, sin) if self.magnitude == 1.0 else (cos * self.magnitude, sin * self.magnitude)

    def _ramp(self, size: int) -> np.ndarray:
        """Return the "yarn" ramp of each pair, from 0 (keep the frequency) to 1 (divide it by `factor`) (Peng et al. 2023, section 3.2)."""

        def pair_of(rotations: float) -> float:
            return size * math.log(self.original_length / (rotations * 2 * math.pi)) / (2 * math.log(self.base))

        first, last = pair_of(self.beta_fast), pair_of(self.beta_slow)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, size - 1)
        return np.clip((np.arange(size // 2) - first) / ((last - first) or 0.001), 0.0, 1.0)


def rotate(x: Float[Array, "B L H D"], angles: RotaryAngles) -> Float[Array, "B L H D"]:
    """Rotate each head's coordinates in float32. If there are angles for fewer coordinates, rotate the first ones. Returns the type of `x`."""
    size = 2 * angles[0].shape[-1]
    if size < x.shape[-1]:
        return jnp.concatenate([rotate(x[..., :size], angles), x[..., size:]], axis=-1)
    cos, sin = (part[:, :, None] for part in angles)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def shuffled(kernel: jax.Array | np.ndarray, heads: int, *, to_halves: bool) -> np.ndarray:
    """Return a kernel of shape [heads * D, ...] with the rows of each head reordered from even-odd pairs to halves, or back.

    to_halves: True converts the order of Meta and GGUF to the order of this module.
    """
    rows = np.asarray(kernel).reshape(heads, -1, *kernel.shape[1:])
    size = rows.shape[1]
    shape = (heads, size // 2, 2) if to_halves else (heads, 2, size // 2)
    return np.swapaxes(rows.reshape(*shape, *kernel.shape[1:]), 1, 2).reshape(kernel.shape)
