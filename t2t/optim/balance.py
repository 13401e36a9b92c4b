"""Updates of the biases that balance the load of experts, without a gradient (Wang et al. 2024, https://arxiv.org/abs/2408.15664).

The gradient of such a bias is the load of its expert, a number of tokens (`t2t.nn.moe.router.with_load`). No optimizer sees it, and it is not part of the
norm of the gradients. The update adds a fixed rate to the bias of an expert with less than the mean load of its layer, and subtracts it above the mean.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from t2t.nn.model import ParamSpec
from t2t.optim.trainable import merge
from t2t.types import Params


def split_loads(tree: Any, specs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the part of a tree that an optimizer updates, and the biases that follow the load. specs: nested dict of ParamSpec with the tree's structure."""
    flat: dict[Any, ParamSpec] = flatten_dict(specs)
    parts: tuple[dict[Any, Any], dict[Any, Any]] = ({}, {})
    for path, leaf in flatten_dict(tree).items():
        parts[flat[path].load_rate is not None][path] = leaf
    return unflatten_dict(parts[0]), unflatten_dict(parts[1])


def with_load_rule(transform: optax.GradientTransformation, specs: Any) -> optax.GradientTransformation:
    """Return the transformation that updates biases by the load, and all other parameters with `transform`. Its state is that of `transform`.

    specs: nested dict of ParamSpec of the trainable parameters.
    """
    rates = {path: spec.load_rate for path, spec in flatten_dict(specs).items() if spec.load_rate is not None}
    if not rates:
        return transform

    def init(params: Params) -> Any:
        return transform.init(split_loads(params, specs)[0])

    def update(updates: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        others, loads = split_loads(updates, specs)
        others, state = transform.update(others, state, None if params is None else split_loads(params, specs)[0])
        changes = {path: _change(load, rates[path]) for path, load in flatten_dict(loads).items()}
        return merge(others, unflatten_dict(changes)), state

    return optax.GradientTransformation(init, update)


def _change(load: jax.Array, rate: float) -> jax.Array:
    """Return the change of the biases of the experts on the last axis."""
    return rate * jnp.sign(jnp.mean(load, axis=-1, keepdims=True) - load)


def without_loads(gradients: Params, specs: Any) -> Params:
    """Return the gradients, with 0 in place of the load."""
    flat: dict[Any, ParamSpec] = flatten_dict(specs)
    kept = {
        path: leaf if flat[path].load_rate is None else jnp.zeros_like(leaf)
        for path, leaf in flatten_dict(gradients).items()
    }
    return unflatten_dict(kept)
