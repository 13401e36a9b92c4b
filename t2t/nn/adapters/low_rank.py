"""Low-rank matrices beside parameters that are not kernels of `Linear`: of experts, routers, token embeddings and heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from t2t.nn.initializers import ZEROS, Initializer, Uniform
from t2t.nn.linear import matmul
from t2t.nn.parameters import parameter


class LowRank(nnx.Module):
    """Two matrices, for `value + scale * a @ b` (Hu et al. 2021, section 4.1), where `value` is a frozen parameter [*G I O].

    Each index of the leading axes, such as each expert, has its own pair. By default `b` starts at zero, and `a` starts as in `LoRA`.

    shape:   of the parameter.
    axes:    its logical axes.
    rank:    width of `a` and height of `b`.
    scale:   factor on the product.
    used:    share of the values that process one token.
    start_a, start_b: first values of the matrices; one of them must be zero.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        axes: tuple[str | None, ...],
        *,
        rank: int,
        scale: float,
        used: float = 1.0,
        start_a: Initializer | None = None,
        start_b: Initializer = ZEROS,
    ) -> None:
        *groups, inputs, outputs = shape
        self.scale = scale
        first = Uniform(inputs**-0.5) if start_a is None else start_a
        self.a = parameter((*groups, inputs, rank), (*axes[:-1], None), first, used=used)
        self.b = parameter((*groups, rank, outputs), (*axes[:-2], None, axes[-1]), start_b, used=used)

    def product(self, x: Float[Array, "*B I"], *, wide: bool = False) -> Float[Array, "*B O"]:
        """Return `scale * (x @ a) @ b`, for a parameter without leading axes. wide: return float32 sums."""
        return self.scale * matmul(matmul(x, self.a[...]), self.b[...], wide=wide)

    def rows(self, ids: Int[Array, "*B"], *, outside: Literal["fill", "clip"] = "fill") -> Float[Array, "*B O"]:
        """Return rows of `scale * a @ b`, for a table. outside: see `t2t.nn.embeddings.Embedding`."""
        return self.scale * matmul(jnp.take(self.a[...], ids, axis=0, mode=outside), self.b[...])

    def merged(self, value: Float[Array, "*G I O"]) -> Float[Array, "*G I O"]:
        """Return the value of the parameter that computes the same alone, in float32."""
        return value + self.scale * jnp.matmul(self.a[...], self.b[...], precision="highest")


class Adapters(nnx.Module):
    """The adapters of several parameters of one module, by the name of the parameter."""

    def of(self, name: str) -> LowRank | None:
        """Return the adapter of a parameter, or None."""
        found: LowRank | None = getattr(self, name, None)
        return found


class Adaptable(nnx.Module):
    """A module with parameters, other than kernels of `Linear`, that can have adapters. It sets `adapter` to None, and computes with `adapter_of`."""

    adapter: LowRank | Adapters | None

    def adaptable(self) -> Mapping[str, str]:
        """Return the names of these parameters by the end of the path that patterns match, "" for the path of the module, which then has no other."""
        raise NotImplementedError

    def started_with(self, name: str) -> Mapping[str, Initializer]:
        """Return how the matrices of a parameter start, as arguments of `LowRank`, if that is not the default."""
        return {}

    def adapter_of(self, name: str) -> LowRank | None:
        """Return the adapter of a parameter, or None."""
        return self.adapter.of(name) if isinstance(self.adapter, Adapters) else self.adapter
