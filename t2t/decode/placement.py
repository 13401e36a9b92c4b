"""Move batches from the host to the devices of the parameters, and results back."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t2t.sharding import DEFAULT_RULES
from t2t.types import Params


def mesh_of(params: Params) -> Mesh | None:
    """Return the mesh of the parameters, or None if they are on a single device or in host memory."""
    for leaf in jax.tree.leaves(params):
        if isinstance(leaf, jax.Array) and isinstance(leaf.sharding, NamedSharding):
            mesh = leaf.sharding.mesh
            return mesh if isinstance(mesh, Mesh) and mesh.size > 1 else None
    return None


def row_parts(mesh: Mesh | None) -> int:
    """Return the number of parts into which the mesh divides rows. Batch sizes that are multiples of it leave no device idle."""
    return 1 if mesh is None else math.prod(mesh.shape.get(axis, 1) for axis in DEFAULT_RULES.table["batch"])


def place(batch: Any, mesh: Mesh | None) -> Any:
    """Move a pytree of host arrays [B ...] to the mesh: sharded by rows if B is divisible by `row_parts`, otherwise replicated.

    With several hosts, every process must pass the same batch. Each process keeps the part of its own devices.
    """
    if mesh is None:
        return batch
    parts = row_parts(mesh)

    def shard(leaf: Any) -> jax.Array:
        leaf = np.asarray(leaf)
        spec = PartitionSpec()
        if parts > 1 and leaf.shape[0] % parts == 0:
            spec = DEFAULT_RULES.spec(("batch",) + (None,) * (leaf.ndim - 1), leaf.shape, mesh)
        return jax.make_array_from_callback(leaf.shape, NamedSharding(mesh, spec), lambda index: leaf[index])

    return jax.tree.map(shard, batch)


def fetch(tree: Any) -> Any:
    """Return the pytree as NumPy arrays. Every process gets the whole arrays."""
    if all(leaf.is_fully_addressable for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)):
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)
