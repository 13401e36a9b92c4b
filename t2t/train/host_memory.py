"""Optimizer state in the memory of the host (`OptimizerConfig.state_memory`): it is on the devices only while a step updates it."""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import NamedSharding

from t2t.errors import UserError
from t2t.optim import OptimizerConfig

DEVICE, HOST = "device", "pinned_host"
"""JAX's names of the two kinds of memory."""


def check_device(optimizer: OptimizerConfig, device: jax.Device) -> None:
    """Raise UserError if the state is to be in host memory, and a device has no memory beside it."""
    if optimizer.state_memory == "device":
        return
    where = f"optimizer.state_memory {optimizer.state_memory} (--optimizer.state-memory)"
    if device.platform == "cpu":
        raise UserError(f"{where}: the devices are CPUs, whose memory is that of the host. Nearest: device.")
    kinds = [memory.kind for memory in device.addressable_memories()]
    if HOST not in kinds:
        raise UserError(
            f"{where}: {device.device_kind} ({device.platform}) cannot read host memory in a program; its kinds of memory are {', '.join(kinds)}."
            " Nearest: device."
        )


def in_host_memory(shardings: Any, shapes: Any) -> Any:
    """Return the shardings of a state with its arrays in host memory. Single numbers stay on the devices.

    shapes: the state as ShapeDtypeStructs.
    """
    return jax.tree.map(
        lambda sharding, leaf: sharding.with_memory_kind(HOST) if leaf.shape else sharding, shardings, shapes
    )


def is_in_host_memory(sharding: NamedSharding) -> bool:
    """Return whether arrays with this sharding are in host memory."""
    return sharding.memory_kind == HOST


def on_devices(state: Any, shardings: Any) -> Any:
    """Return a state in the memory of the devices, inside of a trace. shardings: those of the state."""

    def one(leaf: jax.Array, sharding: NamedSharding) -> jax.Array:
        return jax.device_put(leaf, sharding.with_memory_kind(DEVICE)) if is_in_host_memory(sharding) else leaf

    return jax.tree.map(one, state, shardings)
