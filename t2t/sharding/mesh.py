"""The device mesh of a run."""

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

AXES = ("data", "fsdp", "expert", "context", "tensor")
"""Mesh axes, outermost first: neighbors along the last axis are physically closest. To add an axis (stages), add a field to
`MeshConfig`, an entry here, and entries in the sharding rules."""


@dataclass(frozen=True, kw_only=True)
class MeshConfig(Configuration):
    """Sizes of the mesh axes. One size can be -1: it takes all remaining devices.

    Args:
        data: size of the data axis: replicas of the parameters, each with its own rows (data parallelism).
        fsdp: size of the fsdp axis: shards both rows and parameters (fully sharded data parallelism).
        expert: size of the expert axis: shards rows, and the experts of mixtures of experts; all other parameters are copied (expert parallelism).
        tensor: size of the tensor axis: shards heads, hidden units and vocabulary (Megatron-style tensor parallelism).
        context: size of the context axis: shards the length of rows; attention gathers the keys and values of a whole row.
        slices: number of device groups with a fast network inside and a slower network between them (TPU slices, NVLink domains).
        between: the axis that spans slices; the other axes stay inside a slice. Its size must be a multiple of `slices`.
    """

    data: Axis = -1
    fsdp: Axis = 1
    expert: Axis = 1
    tensor: Axis = 1
    context: Axis = 1
    slices: Parts = 1
    between: Literal["data", "fsdp"] = "data"

    def sizes(self, device_count: int) -> dict[str, int]:
        """Return the size of each axis for `device_count` devices, in the order of `AXES`.

        Raises UserError if more than one size is -1, if the product of the sizes is not `device_count`, or if `slices` does not divide the size of
        the axis `between`.
        """
        sizes = {name: getattr(self, name) for name in AXES}
        shown = " x ".join(f"{name}={size}" for name, size in sizes.items() if size != 1 or name == "data")
        free = [name for name, size in sizes.items() if size == -1]
        if len(free) > 1:
            raise UserError(f"mesh {shown} (--mesh): at most one size can be -1 (the remaining devices)")
        product = math.prod(size for size in sizes.values() if size != -1)
        if free and device_count % product == 0:
            sizes[free[0]] = device_count // product
        elif free or product != device_count:
            fits = max(n for n in range(1, min(product, device_count) + 1) if device_count % n == 0)
            raise UserError(
                f"mesh {shown} (--mesh) needs {'a multiple of ' if free else ''}{product} devices, but there are {device_count}."
                f" Nearest product that divides the number of devices: {fits}."
            )
        if sizes[self.between] % self.slices:
            raise UserError(
                f"mesh {shown} (--mesh): {self.slices} slices (--mesh.slices) do not divide {self.between}={sizes[self.between]},"
                f" the axis between slices. Nearest: {math.gcd(self.slices, sizes[self.between])}."
            )
        return sizes

    def build(self, devices: Sequence[jax.Device] | None = None) -> Mesh:
        """Return the mesh over `devices` (default: all devices).

        Devices with a `slice_index` are grouped by it. Other devices are divided into equal slices, in the given order.
        """
        devices = jax.devices() if devices is None else devices
        sizes = self.sizes(len(devices))
        return Mesh(self._layout(sizes, devices), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))

    def abstract(self, device_count: int) -> AbstractMesh:
        """Return an abstract mesh, without devices. Arrays on it have shapes and shardings, but programs cannot be compiled for it."""
        sizes = self.sizes(device_count)
        return AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))

    def _layout(self, sizes: dict[str, int], devices: Sequence[jax.Device]) -> np.ndarray:
        inside = {name: size // (self.slices if name == self.between else 1) for name, size in sizes.items()}
        slices = _slices(devices, self.slices) if self.slices > 1 else [devices]
        parts = [_within(tuple(inside.values()), part) for part in slices]
        return np.concatenate(parts, axis=list(sizes).index(self.between))


def _slices(devices: Sequence[jax.Device], count: int) -> list[Sequence[jax.Device]]:
    by_slice: dict[int, list[jax.Device]] = {}
    for device in devices:
        by_slice.setdefault(getattr(device, "slice_index", 0), []).append(device)
    if len(by_slice) == 1:
        each = len(devices) // count
        return [devices[i * each : (i + 1) * each] for i in range(count)]
    if len(by_slice) != count or len({len(part) for part in by_slice.values()}) > 1:
        raise UserError(
            f"mesh: {count} slices (--mesh.slices), but the devices are in {len(by_slice)} slices of"
            f" {', '.join(str(len(part)) for part in by_slice.values())} devices. Nearest: {len(by_slice)}."
        )
    return [by_slice[index] for index in sorted(by_slice)]


def _within(shape: tuple[int, ...], devices: Sequence[jax.Device]) -> np.ndarray:
    """Arrange the devices of one slice so that neighbors on the mesh are physically close."""
    return mesh_utils.create_device_mesh(shape, devices=list(devices), allow_split_physical_axes=True)
