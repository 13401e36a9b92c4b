"""Logical axes of the optimizer state, so that it is sharded like its parameters."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from t2t.nn.model import ParamSpec
from t2t.optim.paths import flatten_specs, map_specs
from t2t.optim.per_layer import depth, matrix_view

Axes = tuple[str | None, ...]
SCALES = "scales"
"""Field of a moment in eight bits with the scales of its blocks (`t2t.optim.eight_bit.Blocks`)."""


def state_axes(transform: optax.GradientTransformation, specs: Any) -> Any:
    """Return the pytree of the optimizer state, with a tuple of logical axes, one for each dimension, for each leaf.

    A leaf belongs to the parameter whose path is the end of the leaf's path. It has the axes of the parameter if it has the same shape, and the
    remaining axes if one dimension is reduced (Adafactor's factored moments). The scales of a moment in eight bits have all its axes but the last. Otherwise, and if it belongs to no parameter (a count), all its
    axes are None. None means replicated.
    """
    abstract = abstract_params(specs)
    state = jax.eval_shape(transform.init, abstract)
    flat = flatten_specs(specs)

    def one(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> Axes:
        names = [str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey)]
        spec = next((flat[name] for i in range(len(names)) if (name := "/".join(names[i:])) in flat), None)
        fields = [key.name for key in path if isinstance(key, jax.tree_util.GetAttrKey)]
        return (None,) * len(leaf.shape) if spec is None else _leaf_axes(leaf.shape, spec, fields[-1] if fields else "")

    return jax.tree_util.tree_map_with_path(one, state)


def abstract_params(specs: Any) -> Any:
    """Return the parameters as ShapeDtypeStructs."""
    return map_specs(lambda path, spec: jax.ShapeDtypeStruct(spec.shape, jnp.dtype(spec.dtype)), specs)


def _leaf_axes(shape: tuple[int, ...], spec: ParamSpec, field: str) -> Axes:
    if field == SCALES and len(shape) == len(
        spec.shape
    ):  # the last axis has the blocks of a row, whose number a mesh may not divide
        return (*spec.axes[:-1], None)
    for view in (spec, matrix_view(spec)):
        if shape == view.shape:
            return view.axes
    for view in (spec, matrix_view(spec)):
        found = _with_one_dropped(shape, view, field)
        if found is not None:
            return found
    # A placeholder, or one number per layer.
    return (None,) * len(shape)


def _with_one_dropped(shape: tuple[int, ...], spec: ParamSpec, field: str) -> Axes | None:
    def without(items: tuple[Any, ...], i: int) -> tuple[Any, ...]:
        return items[:i] + items[i + 1 :]

    first = 0 if depth(spec) is None else 1
    dropped = [i for i in range(first, len(spec.shape)) if without(spec.shape, i) == shape]
    if not dropped:
        return None
    if len(dropped) > 1 and field in ("v_row", "v_col"):
        # If dimensions are equal, Optax's v_row drops the one that sorts last, and v_col the one before it.
        order = first + np.argsort(spec.shape[first:])
        dropped = [int(order[-1 if field == "v_row" else -2])]
    candidates = {without(spec.axes, i) for i in dropped}
    if len(candidates) == 1:
        return candidates.pop()
    return tuple(names.pop() if len(names := set(column)) == 1 else None for column in zip(*candidates, strict=True))
