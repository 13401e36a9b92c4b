"""The norm of a gradient, a parameter and layer at a time, and clipping by it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from t2t.optim.paths import flatten_specs, path_name
from t2t.types import Params


def layered(specs: Params) -> dict[str, bool]:
    """Return for each parameter's path whether it is stacked over layers."""
    return {path: spec.axes[:1] == ("layers",) for path, spec in flatten_specs(specs).items()}


def squares(tree: Params, layered: Mapping[str, bool]) -> Float[Array, "N"]:
    """Return each parameter's sum of squares in float32, of stacked ones each layer's, in the tree's order. A NaN or infinity shows in its sum."""

    def one(path: Any, leaf: jax.Array) -> Float[Array, "n"]:
        square = jnp.square(leaf.astype(jnp.float32))
        return jnp.sum(square, axis=tuple(range(1, leaf.ndim))) if layered[path_name(path)] else jnp.sum(square)[None]

    # abs changes nothing, and keeps XLA from summing each parameter a second time for the sum of all: it would make the squares' sum of the stack anew,
    # and hold the squares meanwhile.
    return jnp.abs(jnp.concatenate([one(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]))


def clip_by_norm(most: float, specs: Params) -> optax.GradientTransformation:
    """Return the transformation that scales gradients down to a norm, over all of them, of at most `most` (Pascanu et al. 2013).

    `optax.clip_by_global_norm` divides each entry, which XLA on CPUs does in a pass of its own, and sums the squares in another way than the step's check
    of each tensor (`squares`): here they are summed once.
    """
    stacked = layered(specs)

    def update(grads: Params, state: optax.EmptyState, params: Params | None = None) -> tuple[Params, optax.EmptyState]:
        norm = jnp.sqrt(jnp.sum(squares(grads, stacked)))
        factor = jnp.where(norm < most, 1.0, most / norm)
        return jax.tree.map(lambda grad: (grad * factor).astype(grad.dtype), grads), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
