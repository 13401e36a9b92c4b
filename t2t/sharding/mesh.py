"""The mesh a run is spread over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh

from t2t.errors import UserError
from t2t.limits import Axis, Configuration, Parts

AXES = ("data", "fsdp", "context", "tensor")
"""Axes of the mesh, outermost first: neighbours along the last are nearest. A further axis (experts, stages) is a field of
`MeshConfig`, an entry here, and rows in the table of rules."""


@dataclass(frozen=True, kw_only=True)
class MeshConfig(Configuration):
    """Sizes of the mesh's axes; one may be -1, which takes the devices left over.

    Args:
        data: replicas of the parameters, each with its own rows.
        fsdp: rows and parameters both divided (fully sharded data parallelism).
        tensor: heads, hidden units and vocabulary divided (Megatron-style tensor parallelism).
        context: the length of rows divided; attention gathers the keys and values of a whole row.
        slices: groups of devices with a fast network inside (TPU slices, NVLink domains) and a slower one between.
        between: the axis that crosses from slice to slice; the others stay inside one. Its size is a multiple of `slices`.
    """

    data: Axis = -1
    fsdp: Axis = 1
    tensor: Axis = 1
    context: Axis = 1
    slices: Parts = 1
    between: Literal["data", "fsdp"] = "data"

    def sizes(self, device_count: int) -> dict[str, int]:
        """Return the size of every axis for that many devices, in the order of `AXES`.

        Raises UserError where more than one size is -1, they do not multiply to `device_count`, or the slices do
        not divide their axis.
        """
        sizes = {name: getattr(self, name) for name in AXES}
        said = " x ".join(f"{name}={size}" for name, size in sizes.items() if size != 1 or name == "data")
        free = [name for name, size in sizes.items() if size == -1]
        if len(free) > 1:
            raise UserError(f"mesh {said} (--mesh): at most one size is -1 (the devices left over)")
        product = math.prod(size for size in sizes.values() if size != -1)
        if free and device_count % product == 0:
            sizes[free[0]] = device_count // product
        elif free or product != device_count:
            fits = max(n for n in range(1, min(product, device_count) + 1) if device_count % n == 0)
            raise UserError(
                f"mesh {said} (--mesh) needs {'a multiple of ' if free else ''}{product} devices, there are {device_count}."
                f" Nearest product that divides them: {fits}."
            )
        if sizes[self.between] % self.slices:
            raise UserError(
                f"mesh {said} (--mesh): {self.slices} slices (--mesh.slices) do not divide {self.between}={sizes[self.between]},"
                f" the axis between them. Nearest: {math.gcd(self.slices, sizes[self.between])}."
            )
        return sizes

    def build(self, devices: Sequence[jax.Device] | None = None) -> Mesh:
        """Return the mesh over `devices`, by default all of them.

        Devices that tell their slice are laid out by it; others count as belonging to equal slices in the order given.
        """
        devices = jax.devices() if devices is None else devices
        sizes = self.sizes(len(devices))
        return Mesh(self._layout(sizes, devices), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))

    def abstract(self, device_count: int) -> AbstractMesh:
        """Return the mesh's axes over that many devices, without the devices: what is laid over it has shapes and cannot be compiled."""
        sizes = self.sizes(device_count)
        return AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))

    def _layout(self, sizes: dict[str, int], devices: Sequence[jax.Device]) -> np.ndarray:
        inside = {name: size // (self.slices if name == self.between else 1) for name, size in sizes.items()}
        slices = [devices]
        if self.slices > 1:
            slices = _slices(devices, self.slices)
        parts = [_within(tuple(inside.values()), part) for part in slices]
        return np.concatenate(parts, axis=list(sizes).index(self.between))


def _slices(devices: Sequence[jax.Device], count: int) -> list[Sequence[jax.Device]]:
    told: dict[int, list[jax.Device]] = {}
    for device in devices:
        told.setdefault(getattr(device, "slice_index", 0), []).append(device)
    if len(told) == 1:
        each = len(devices) // count
        return [devices[i * each : (i + 1) * each] for i in range(count)]
    if len(told) != count or len({len(part) for part in told.values()}) > 1:
        raise UserError(
            f"mesh: {count} slices (--mesh.slices), but the devices are in {len(told)} of"
            f" {', '.join(str(len(part)) for part in told.values())}. Nearest: {len(told)}."
        )
    return [told[index] for index in sorted(told)]


def _within(shape: tuple[int, ...], devices: Sequence[jax.Device]) -> np.ndarray:
    """Lay devices of one slice out so that neighbours on the mesh are near each other."""
    return mesh_utils.create_device_mesh(shape, devices=list(devices), allow_split_physical_axes=True)
