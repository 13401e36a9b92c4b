"""Wrap optimizers that use whole parameters, so that they use one layer of a stacked parameter at a time, and projections to heads as matrices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import optax

from t2t.nn.model import ParamSpec
from t2t.optim.paths import flatten_specs, path_name
from t2t.types import Params

_WHOLE = "whole"


def depth(spec: ParamSpec) -> int | None:
    """Return the number of layers of a parameter, or None if it is not stacked over layers."""
    return spec.shape[0] if spec.axes and spec.axes[0] == "layers" else None


def per_layer(transform: optax.GradientTransformation, specs: Any) -> optax.GradientTransformation:
    """Return the transformation that treats each layer of a stacked parameter as a separate parameter.

    Factored moments, update clipping and trust ratios are then the same as in a model with unstacked layers. The first axis of the state of
    stacked parameters, including counts, is the layer. The transformation must not mix parameters (clipping by the global norm does).
    """
    labels = {path: _label(depth(spec)) for path, spec in flatten_specs(specs).items()}
    if set(labels.values()) <= {_WHOLE}:
        return transform
    # Stacks of different depths (encoder and decoder) cannot share one vmap.
    transforms = {
        label: transform if label == _WHOLE else _over_first_axis(transform) for label in sorted(set(labels.values()))
    }
    return optax.partition(
        transforms, lambda tree: jax.tree_util.tree_map_with_path(lambda path, leaf: labels[path_name(path)], tree)
    )


def _label(layers: int | None) -> str:
    return _WHOLE if layers is None else f"layers_{layers}"


def _over_first_axis(transform: optax.GradientTransformation) -> optax.GradientTransformation:
    def update(updates: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        return jax.vmap(transform.update)(updates, state, params)

    return optax.GradientTransformation(jax.vmap(transform.init), update)


def matrix_view(spec: ParamSpec) -> ParamSpec:
    """Return the spec with the axes "heads" and "kv" merged into one.

    A projection to heads is then a matrix [embed, heads * kv], as T5's Adafactor factors it.
    """
    for i in range(len(spec.axes) - 1):
        if spec.axes[i : i + 2] == ("heads", "kv"):
            shape = (*spec.shape[:i], spec.shape[i] * spec.shape[i + 1], *spec.shape[i + 2 :])
            return replace(spec, shape=shape, axes=(*spec.axes[: i + 1], *spec.axes[i + 2 :]))
    return spec


def as_matrices(transform: optax.GradientTransformation, specs: Any) -> optax.GradientTransformation:
    """Return the transformation applied to each parameter in the shape of its `matrix_view`."""
    flat = flatten_specs(specs)

    def reshaped(tree: Params, shape: Callable[[ParamSpec], tuple[int, ...]]) -> Params:
        return jax.tree_util.tree_map_with_path(lambda path, x: x.reshape(shape(flat[path_name(path)])), tree)

    def viewed(tree: Params) -> Params:
        return reshaped(tree, lambda spec: matrix_view(spec).shape)

    def init(params: Params) -> Any:
        return transform.init(viewed(params))

    def update(updates: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        new, state = transform.update(viewed(updates), state, None if params is None else viewed(params))
        return reshaped(new, lambda spec: spec.shape), state

    return optax.GradientTransformation(init, update)
