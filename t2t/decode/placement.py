"""Host batches onto the devices that hold the parameters, and results back."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t2t.sharding import DEFAULT_RULES
from t2t.types import Params


def mesh_of(params: Params) -> Mesh | None:
    """Return the mesh the parameters lie on, or None where they lie on a single device or in host memory."""
    for leaf in jax.tree.leaves(params):
        if isinstance(leaf, jax.Array) and isinstance(leaf.sharding, NamedSharding):
            mesh = leaf.sharding.mesh
            return mesh if isinstance(mesh, Mesh) and mesh.size > 1 else None
    return None


def row_parts(mesh: Mesh | None) -> int:
    """Return over how many parts of the mesh rows are divided: batches of a multiple of it leave no device idle."""
    return 1 if mesh is None else math.prod(mesh.shape.get(axis, 1) for axis in DEFAULT_RULES.table["batch"])


def place(batch: Any, mesh: Mesh | None) -> Any:
    """Lay a pytree of host arrays [B ...] over the mesh: by rows where B divides, else a copy everywhere.

    On many hosts every process must call it with the same batch: each keeps the part of its own devices.
    """
    if mesh is None:
        return batch
    parts = row_parts(mesh)

    def put(leaf: Any) -> jax.Array:
        leaf = np.asarray(leaf)
        spec = PartitionSpec()
        if parts > 1 and leaf.shape[0] % parts == 0:
            spec = DEFAULT_RULES.spec(("batch",) + (None,) * (leaf.ndim - 1), leaf.shape, mesh)
        return jax.make_array_from_callback(leaf.shape, NamedSharding(mesh, spec), lambda index: leaf[index])

    return jax.tree.map(put, batch)


def fetch(tree: Any) -> Any:
    """Return a pytree of NumPy arrays, whole on every process."""
    if all(leaf.is_fully_addressable for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)):
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)
