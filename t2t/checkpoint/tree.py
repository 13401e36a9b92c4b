"""Convert a training state to nested dicts of plain arrays, which any version of any library can read, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from t2t.errors import UserError, nearest
from t2t.optim.paths import path_name

Nested = dict[str, Any]


def nested(tree: Any, leaf_of: Callable[[Any], Any]) -> Nested:
    """Return any pytree as a nested dict of leaf_of(leaf), keyed by its paths. Nodes without leaves are omitted."""
    out: Nested = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        *folders, name = [path_name((key,)) for key in path]
        place = out
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = leaf_of(leaf)
    return out


def flatten(tree: Nested) -> dict[str, Any]:
    """Return the leaves of a nested dict as path -> leaf."""
    flat: dict[str, Any] = flatten_dict(tree, sep="/")
    return flat


def to_plain(leaf: Any) -> jax.Array:
    """Return the leaf as an array that can be stored. A random key becomes its key data."""
    array = leaf if isinstance(leaf, jax.Array) else jnp.asarray(np.asarray(leaf))
    return jax.random.key_data(array) if _is_key(array.dtype) else array


def to_plain_struct(leaf: Any) -> jax.ShapeDtypeStruct:
    """Return the struct of the array to read for an abstract leaf. Without a sharding, it is read to this process's first device."""
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    struct = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    if _is_key(leaf.dtype):
        struct = jax.eval_shape(jax.random.key_data, struct)
    return jax.ShapeDtypeStruct(struct.shape, struct.dtype, sharding=sharding)


def from_plain(abstract: Any, plain: Nested) -> Any:
    """Return the pytree of `abstract` with the arrays at the same paths in `plain`."""

    def fill(path: tuple[Any, ...], leaf: Any) -> jax.Array:
        value: Any = plain
        for key in path:
            value = value[path_name((key,))]
        if _is_key(leaf.dtype):
            return jax.random.wrap_key_data(value, impl=jax.random.key_impl(jnp.zeros((), leaf.dtype)))
        return value

    return jax.tree_util.tree_map_with_path(fill, abstract)


def check(stored: Nested, wanted: Nested, *, what: str, where: object, partial: bool = False) -> None:
    """Raise UserError if the paths or shapes of the stored arrays differ from the wanted ones.

    what:    the kind of array ("parameter"), for the error.
    where:   the path of the checkpoint, for the error.
    partial: allow additional stored arrays.
    """
    have, want = flatten(stored), flatten(wanted)
    others = [f"{path} {_shape(want[path])}" for path in want if path in have and have[path].shape != want[path].shape]
    for path, leaf in want.items():
        if path not in have:
            raise UserError(
                f"{where}: the checkpoint has no {what} {path}, which is {_shape(leaf)} here.{nearest(path, have)}"
            )
        if have[path].shape != leaf.shape:
            more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
            raise UserError(
                f"{where}: {what} {path} is {_shape(have[path])} in the checkpoint but {_shape(leaf)} here{more}."
                " Does it have another vocabulary or another model?"
            )
    extra = [path for path in have if path not in want]
    if extra and not partial:
        more = f" (and {len(extra) - 1} more)" if len(extra) > 1 else ""
        raise UserError(
            f"{where}: the checkpoint has {what} {extra[0]}, {_shape(have[extra[0]])}{more}, which is unknown here."
            f"{nearest(extra[0], want)}"
        )


def shape_table(tree: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the leaves as path -> shape."""
    return {path: tuple(leaf.shape) for path, leaf in flatten(dict(tree)).items()}


def _is_key(dtype: Any) -> bool:
    return jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)


def _shape(leaf: Any) -> str:
    return "[" + ", ".join(map(str, leaf.shape)) + "]"
