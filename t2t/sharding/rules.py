"""Logical axis names of arrays -> axes of the mesh.

Models name the axes of parameters and activations by what they mean; this table alone decides how they are divided.
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
    """Mesh axes for each logical axis; an empty tuple keeps the axis whole."""

    table: Mapping[str, tuple[str, ...]]

    def spec(
        self, axes: Axes, shape: tuple[int, ...], mesh: Mesh | AbstractMesh, *, name: str = "array"
    ) -> PartitionSpec:
        """Return how an array with these logical axes and this shape is divided over the mesh.

        Raises UserError where a size does not divide, ValueError where a logical axis is unknown or two of one array want the same mesh axis:
        those are mistakes of the model's author.
        """
        if len(axes) != len(shape):
            raise ValueError(f"{name}: {len(axes)} logical axes {axes} for shape {shape}")
        taken: dict[str, str] = {}
        entries: list[tuple[str, ...] | str | None] = []
        for logical, size in zip(axes, shape, strict=True):
            if logical is not None and logical not in self.table:
                raise ValueError(f"{name}: unknown logical axis {logical!r}.{nearest(logical, self.table)}")
            wanted = self.table[logical] if logical is not None else ()
            # Axes of size 1 divide nothing; leaving them out keeps one spelling for one layout.
            used = tuple(axis for axis in wanted if mesh.shape.get(axis, 1) > 1)
            for axis in used:
                if axis in taken:
                    raise ValueError(
                        f"{name} {axes}: {taken[axis]!r} and {logical!r} would both be divided along {axis!r}"
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
        """Return `spec` for arrays whose sizes are known to divide."""
        return self.spec(axes, tuple(mesh.size for _ in axes), mesh)

    def sharding(
        self, axes: Axes, shape: tuple[int, ...], mesh: Mesh | AbstractMesh, *, name: str = "array"
    ) -> NamedSharding:
        """Return `spec` on the mesh."""
        return NamedSharding(mesh, self.spec(axes, shape, mesh, name=name))


DEFAULT_RULES = Rules(
    {
        # activations
        "batch": ("data", "fsdp"),
        "length": ("context",),
        # parameters
        "vocab": ("tensor",),
        "embed": ("fsdp",),
        "mlp": ("tensor",),
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
    """Make `constrain` effective for what is traced inside."""
    token = _active.set((mesh, rules))
    try:
        yield
    finally:
        _active.reset(token)


def active_mesh() -> Mesh | AbstractMesh | None:
    """Return the mesh that is active; None outside `activate`."""
    active = _active.get()
    return None if active is None else active[0]


def axis_size(axis: str) -> int:
    """Return the size of an axis of the mesh that is active; 1 outside `activate`, and of an axis it does not have."""
    active = _active.get()
    return 1 if active is None else int(active[0].shape.get(axis, 1))


def constrain(x: jax.Array, axes: Axes) -> jax.Array:
    """Pin an activation's layout by its logical axes; outside `activate` return it as it is."""
    active = _active.get()
    if active is None:
        return x
    mesh, rules = active
    return jax.lax.with_sharding_constraint(x, rules.sharding(axes, x.shape, mesh, name="activation"))


def on_own_rows(function: Callable[[Any, Any], tuple[Any, Any]], whole: Any, rows: Any) -> tuple[Any, Any]:
    """Return `function(whole, rows)`, each device computing on the rows, or strips of rows, that it holds.

    function: (whole, rows) -> (parts, rows). It sees the device's own arrays, and of the mesh only "tensor" divides what is in it.
    whole:    arrays that every device needs entirely, but for "tensor": gathered once.
    rows:     arrays [B L ...], as they are returned.

    The parts of all devices are added up.
    """
    axes = divided_rows()
    if not axes:
        return function(whole, rows)
    active = _active.get()
    assert active is not None
    mesh, rules = active

    def own(whole: Any, rows: Any) -> tuple[Any, Any]:
        parts, rows = function(whole, rows)
        return jax.tree.map(lambda x: x[None], parts), rows

    here = rules.partition(("batch", "length"), mesh)
    mapped = jax.shard_map(
        own,
        mesh=mesh,
        in_specs=(PartitionSpec(), here),
        out_specs=(PartitionSpec(axes), here),
        axis_names=set(axes),
        check_vma=False,
    )
    parts, rows = mapped(whole, rows)
    return jax.tree.map(lambda x: jnp.sum(x, axis=0), parts), rows


def divided_rows() -> tuple[str, ...]:
    """Return the axes of the active mesh along which rows, or their lengths, are divided."""
    active = _active.get()
    if active is None:
        return ()
    mesh, rules = active
    return tuple(axis for name in ("batch", "length") for axis in rules.table[name] if mesh.shape.get(axis, 1) > 1)


def per_device(function: Callable[..., jax.Array], axes: tuple[Axes, ...], out: Axes) -> Callable[..., jax.Array]:
    """Return `function` applied by each device to its own part of arrays with these logical axes, for kernels, which the partitioner cannot divide.

    out: logical axes of its result. Outside `activate` the function is returned as it is.
    """
    active = _active.get()
    if active is None or active[0].size == 1:
        return function
    mesh, rules = active

    def divided(*arrays: jax.Array) -> jax.Array:
        specs = tuple(rules.spec(own, x.shape, mesh, name="activation") for own, x in zip(axes, arrays, strict=True))
        # Kernels do not tell along which axes their results are alike, so that it cannot be checked.
        whole = jax.shard_map(
            function, mesh=mesh, in_specs=specs, out_specs=rules.partition(out, mesh), check_vma=False
        )
        return whole(*arrays)

    return divided
