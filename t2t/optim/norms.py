"""Gradient norms, for each parameter and layer, and gradient clipping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from t2t.optim.paths import flatten_specs, path_name
from t2t.optim.per_layer import depth
from t2t.types import Params


def layered(specs: Params) -> dict[str, bool]:
    """Return for the path of each parameter whether it is stacked over layers."""
    return {path: depth(spec) is not None for path, spec in flatten_specs(specs).items()}


def squares(tree: Params, layered: Mapping[str, bool]) -> Float[Array, "N"]:
    """Return the sum of squares of each parameter, or of each layer of a stacked parameter, in float32, in the tree's order.

    A sum is not finite if one of its entries is NaN or infinite.
    """

    def one(path: Any, leaf: jax.Array) -> Float[Array, "n"]:
        square = jnp.square(leaf.astype(jnp.float32))
        return jnp.sum(square, axis=tuple(range(1, leaf.ndim))) if layered[path_name(path)] else jnp.sum(square)[None]

    # abs does not change the values. It prevents XLA from computing the squares of each parameter a second time, for the total sum, and from
    # holding them in memory.
    return jnp.abs(jnp.concatenate([one(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]))


def clip_by_norm(most: float, specs: Params) -> optax.GradientTransformation:
    """Return the transformation that scales gradients down to a global norm of at most `most` (Pascanu et al. 2013).

    It is cheaper than `optax.clip_by_global_norm`, which divides each entry in a separate pass on CPUs, and sums the squares a second time: here
    the sums are shared with the step's check of each tensor (`squares`).
    """
    stacked = layered(specs)

    def update(grads: Params, state: optax.EmptyState, params: Params | None = None) -> tuple[Params, optax.EmptyState]:
        norm = jnp.sqrt(jnp.sum(squares(grads, stacked)))
        factor = jnp.where(norm < most, 1.0, most / norm)
        return jax.tree.map(lambda grad: (grad * factor).astype(grad.dtype), grads), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
