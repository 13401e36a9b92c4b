"""Sharding rules: map logical axis names of arrays to mesh axes.

Models give logical names to the axes of parameters and activations. Only this table decides how these axes are sharded.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from t2t.errors import UserError, nearest

Axes = tuple[str | None, ...]


@dataclass(frozen=True)
class Rules:
    """Mesh axes for each logical axis. An empty tuple means that the axis is not sharded."""

    table: Mapping[str, tuple[str, ...]]

    def spec(
        self, axes: Axes, shape: tuple[int, ...], mesh: Mesh | AbstractMesh, *, name: str = "array"
    ) -> PartitionSpec:
        """Return the PartitionSpec of an array with these logical axes and this shape.

        Raises UserError if a size does not divide over its mesh axes. Raises ValueError if a logical axis is unknown, or if two axes of the array
        map to the same mesh axis: these are errors in the model's code.
        """
        if len(axes) != len(shape):
            raise ValueError(f"{name}: {len(axes)} logical axes {axes} for shape {shape}")
        taken: dict[str, str] = {}
        entries: list[tuple[str, ...] | str | None] = []
        for logical, size in zip(axes, shape, strict=True):
            if logical is not None and logical not in self.table:
                raise ValueError(f"{name}: unknown logical axis {logical!r}.{nearest(logical, self.table)}")
            wanted = self.table[logical] if logical is not None else ()
            # Leave out mesh axes of size 1, so that equal layouts have equal specs.
            used = tuple(axis for axis in wanted if mesh.shape.get(axis, 1) > 1)
            for axis in used:
                if axis in taken:
                    raise ValueError(
                        f"{name} {axes}: {taken[axis]!r} and {logical!r} would both be sharded over mesh axis {axis!r}"
                    )
                taken[axis] = str(logical)
            parts = math.prod(mesh.shape[axis] for axis in used)
            if size % parts:
                up, down = -(-size // parts) * parts, size // parts * parts
                raise UserError(
                    f"{name}: {logical} = {size} does not divide over mesh {' x '.join(f'{a}={mesh.shape[a]}' for a in used)}"
                    f" (--mesh). Nearest sizes that do: {down}, {up}."
                    if down
                    else f"{name}: {logical} = {size} is smaller than mesh {' x '.join(f'{a}={mesh.shape[a]}' for a in used)} (--mesh). Nearest size: {up}."
                )
            entries.append(used[0] if len(used) == 1 else used or None)
        while entries and entries[-1] is None:
            entries.pop()
        return PartitionSpec(*entries)

    def partition(self, axes: Axes, mesh: Mesh | AbstractMesh) -> PartitionSpec:
        """Return the PartitionSpec without checking whether the sizes divide."""
        return self.spec(axes, tuple(mesh.size for _ in axes), mesh)

    def sharding(
        self, axes: Axes, shape: tuple[int, ...], mesh: Mesh | AbstractMesh, *, name: str = "array"
    ) -> NamedSharding:
        """Return the NamedSharding of an array; arguments and errors as in `spec`."""
        return NamedSharding(mesh, self.spec(axes, shape, mesh, name=name))


DEFAULT_RULES = Rules(
    {
        # activations
        "batch": ("data", "fsdp", "expert"),
        "expert_batch": ("data", "fsdp"),  # rows at their experts
        "length": ("context",),
        # parameters
        "vocab": ("tensor",),
        "embed": ("fsdp",),
        "mlp": ("tensor",),
        "experts": ("expert",),
        "heads": ("tensor",),
        "kv": (),
        "layers": (),
        "positions": (),
        "buckets": (),
        "types": (),
    }
)

_active: contextvars.ContextVar[tuple[Mesh | AbstractMesh, Rules] | None] = contextvars.ContextVar(
    "t2t_sharding", default=None
)


@contextlib.contextmanager
def activate(mesh: Mesh | AbstractMesh, rules: Rules = DEFAULT_RULES) -> Iterator[None]:
    """Set the mesh and rules that `constrain` and the other functions below use while the context is open."""
    token = _active.set((mesh, rules))
    try:
        yield
    finally:
        _active.reset(token)


def active_mesh() -> Mesh | AbstractMesh | None:
    """Return the active mesh; None outside `activate`."""
    active = _active.get()
    return None if active is None else active[0]


def axis_size(axis: str) -> int:
    """Return the size of an axis of the active mesh; 1 outside `activate` or if the mesh has no such axis."""
    active = _active.get()
    return 1 if active is None else int(active[0].shape.get(axis, 1))


def constrain(x: jax.Array, axes: Axes) -> jax.Array:
    """Constrain the sharding of an activation by its logical axes. Outside `activate`, return it unchanged."""
    active = _active.get()
    if active is None:
        return x
    mesh, rules = active
    return jax.lax.with_sharding_constraint(x, rules.sharding(axes, x.shape, mesh, name="activation"))


def on_own_rows(function: Callable[[Any, Any], tuple[Any, Any]], whole: Any, rows: Any) -> tuple[Any, Any]:
    """Return `function(whole, rows)`, where each device computes on its own rows (or its part of the length of rows).

    function: (whole, rows) -> (parts, rows). It gets the local arrays of the device. Inside, only the mesh axis "tensor" shards arrays.
    whole:    arrays that every device needs in full (still sharded over "tensor"); they are gathered once.
    rows:     arrays [B L ...]; the returned rows have the same sharding.

    The returned parts are the sums over all devices.
    """
    axes = divided_rows()
    if not axes:
        return function(whole, rows)
    active = _active.get()
    assert active is not None
    mesh, rules = active

    def local(whole: Any, rows: Any) -> tuple[Any, Any]:
        parts, rows = function(whole, rows)
        return jax.tree.map(lambda x: x[None], parts), rows

    row_spec = rules.partition(("batch", "length"), mesh)
    mapped = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(PartitionSpec(), row_spec),
        out_specs=(PartitionSpec(axes), row_spec),
        axis_names=set(axes),
        check_vma=False,
    )
    parts, rows = mapped(whole, rows)
    return jax.tree.map(lambda x: jnp.sum(x, axis=0), parts), rows


def on_own_experts(
    function: Callable[..., jax.Array], kernels: Any, kernel_axes: Any, rows: Any, row_axes: Any
) -> jax.Array:
    """Return the rows `function(kernels, rows, first)`, where each device computes with its own experts on the rows of all devices along the mesh axis "expert".

    The rows are gathered along this axis, and the results are added up, each at the device of its row, and then along the mesh axis "tensor".

    function: gets the device's share of the kernels, and the number of its first expert. Its results must add up over experts and over the logical axis "mlp".
    kernels:  arrays [E ...], one for each expert. They are gathered once along all mesh axes that `kernel_axes` does not name.
    rows:     arrays [B L ...].
    kernel_axes, row_axes: logical axes of each array, as tuples in a tree of the same structure.
    """
    active = _active.get()
    assert active is not None
    mesh, rules = active
    gathered, added = axis_size("expert") > 1, axis_size("tensor") > 1
    numbers = jnp.arange(jax.tree.leaves(kernels)[0].shape[0])

    def local(kernels: Any, numbers: jax.Array, rows: Any) -> jax.Array:
        if gathered:
            rows = jax.tree.map(lambda x: jax.lax.all_gather(x, "expert", axis=0, tiled=True), rows)
        out = function(kernels, rows, numbers[0])
        if gathered:
            out = jax.lax.psum_scatter(out, "expert", scatter_dimension=0, tiled=True)
        return jax.lax.psum(out, "tensor") if added else out

    def specs(tree: Any) -> Any:
        return jax.tree.map(lambda axes: rules.partition(axes, mesh), tree, is_leaf=lambda leaf: type(leaf) is tuple)

    mapped = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(specs(kernel_axes), rules.partition(("experts",), mesh), specs(row_axes)),
        out_specs=rules.partition(("batch", "length"), mesh),
        axis_names={*divided_rows(), *(("tensor",) if added else ())},
        check_vma=False,
    )
    return mapped(kernels, numbers, rows)


def divided_rows() -> tuple[str, ...]:
    """Return the axes of the active mesh that shard rows or their lengths."""
    active = _active.get()
    if active is None:
        return ()
    mesh, rules = active
    return tuple(axis for name in ("batch", "length") for axis in rules.table[name] if mesh.shape.get(axis, 1) > 1)


def per_device(function: Callable[..., jax.Array], axes: tuple[Axes, ...], out: Axes) -> Callable[..., jax.Array]:
    """Return a function that applies `function` on each device to its shard of the arguments. Use it for kernels, which XLA cannot partition.

    axes: logical axes of the arguments.
    out:  logical axes of the result.

    Outside `activate`, return `function` unchanged.
    """
    active = _active.get()
    if active is None or active[0].size == 1:
        return function
    mesh, rules = active

    def mapped(*arrays: jax.Array) -> jax.Array:
        specs = tuple(
            rules.spec(names, x.shape, mesh, name="activation") for names, x in zip(axes, arrays, strict=True)
        )
        # Kernels do not declare over which mesh axes their results are equal, so JAX cannot check it.
        return jax.shard_map(
            function, mesh=mesh, in_specs=specs, out_specs=rules.partition(out, mesh), check_vma=False
        )(*arrays)

    return mapped
