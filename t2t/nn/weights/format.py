"""The interface of a form in which a kernel is stored."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import Array, Float

Axes = tuple[str | None, ...]
Multiply = Callable[[jax.Array, jax.Array], jax.Array]
"""(x [*B I], kernel [I O]) -> [*B O]: the product of a linear layer."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of the arrays that store a kernel.

    axes:       a logical axis name, or None, for each dimension.
    stands_for: number of the kernel's values that each of its values holds.
    """

    shape: tuple[int, ...]
    axes: Axes
    dtype: Any
    stands_for: float = 0.0


class Format(abc.ABC):
    """Stores a kernel as several arrays ("parts"): codes, and the scales of groups of codes.

    The arrays have the output axis first, as weights of PyTorch. All values of a group belong to one output.
    """

    @abc.abstractmethod
    def parts(self, inputs: int, outputs: int, axes: tuple[str | None, str | None]) -> dict[str, Part]:
        """Return the arrays of a kernel with these sizes and logical axes, by name. "codes" is one of them, with both axes."""

    @abc.abstractmethod
    def quantize(self, weight: Float[Array, "O I"]) -> dict[str, jax.Array]:
        """Return the arrays that store a transposed kernel. Each value is rounded to the nearest one."""

    @abc.abstractmethod
    def dequantize(self, parts: dict[str, jax.Array], inputs: int) -> Float[Array, "O I"]:
        """Return the transposed kernel in float32."""

    def product(
        self, x: Float[Array, "*B I"], parts: dict[str, jax.Array], inputs: int, multiply: Multiply
    ) -> Float[Array, "*B O"]:
        """Return `multiply(x, kernel)`. The gradient with respect to x must not depend on x."""
        return multiply(x, self.dequantize(parts, inputs).T)
