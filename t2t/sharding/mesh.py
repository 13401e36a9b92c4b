"""The mesh a run is spread over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import jax
from jax.sharding import AxisType, Mesh

from t2t.errors import UserError


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Sizes of the mesh's axes; one may be -1, which takes the devices left over.

    data:   replicas of the parameters, each with its own rows.
    fsdp:   rows and parameters both divided (fully sharded data parallelism).
    tensor: heads, hidden units and vocabulary divided (Megatron-style tensor parallelism).
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def sizes(self, device_count: int) -> dict[str, int]:
        """Return the size of every axis for that many devices.

        Raises UserError where a size is neither -1 nor positive, more than one is -1, or they do not multiply to `device_count`.
        """
        sizes = asdict(self)
        said = " x ".join(f"{name}={size}" for name, size in sizes.items())
        free = [name for name, size in sizes.items() if size == -1]
        if len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
            raise UserError(f"mesh {said} (--mesh): sizes are positive, and at most one is -1 (the devices left over)")
        product = math.prod(size for size in sizes.values() if size != -1)
        if free and device_count % product == 0:
            sizes[free[0]] = device_count // product
        elif free or product != device_count:
            fits = max(n for n in range(1, min(product, device_count) + 1) if device_count % n == 0)
            raise UserError(
                f"mesh {said} (--mesh) needs {'a multiple of ' if free else ''}{product} devices, there are {device_count}."
                f" Nearest product that divides them: {fits}."
            )
        return sizes

    def build(self, devices: Sequence[jax.Device] | None = None) -> Mesh:
        """Return the mesh over `devices`, by default all of them."""
        devices = jax.devices() if devices is None else devices
        sizes = self.sizes(len(devices))
        return jax.make_mesh(
            tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes), devices=devices
        )
