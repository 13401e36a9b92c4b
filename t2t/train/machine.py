"""Describe the machine of a run, for RUN/machine.json."""

from __future__ import annotations

import os
import platform
import subprocess
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "seqio", "tensorflow", "numpy")


def machine() -> dict[str, Any]:
    """Return the machine of this process as JSON values. Unknown values are omitted.

    python, and each installed package of `PACKAGES`: versions, from the packages' metadata. Only JAX is imported.
    host, os, cpu: names.
    cores:         number of cores that this process may use.
    memory_gb:     memory of the host, in 2^30 bytes.
    processes:     number of processes of the run.
    devices:       the devices of all processes, grouped by kind: `[{"platform": "cpu", "kind": "cpu", "count": 1, "memory_gb": ...}]`.

    Starts JAX's backend. With several processes, call it after `jax.distributed.initialize`.
    """
    import jax

    values: dict[str, Any] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            values[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    values |= {
        "host": platform.node(),
        "os": platform.platform(),
        "cpu": _cpu(),
        "cores": _cores(),
        "memory_gb": _memory_gb(),
    }
    values |= {"processes": jax.process_count(), "devices": _devices(jax.devices(), jax.local_devices())}
    return {name: value for name, value in values.items() if value not in (None, "")}


def _devices(devices: list[Any], local: list[Any]) -> list[dict[str, Any]]:
    counts = Counter((device.platform, device.device_kind) for device in devices)
    memory = {(device.platform, device.device_kind): _device_memory_gb(device) for device in local}
    return [
        {"platform": platform, "kind": kind, "count": count}
        | ({"memory_gb": memory[platform, kind]} if memory.get((platform, kind)) else {})
        for (platform, kind), count in counts.items()
    ]


def _device_memory_gb(device: Any) -> float | None:
    try:
        statistics = device.memory_stats()
    except Exception:  # backends raise different errors if they do not know; this must not end a run
        return None
    limit = (statistics or {}).get("bytes_limit")
    return round(limit / 2**30, 1) if limit else None


def _cores() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _cpu() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Model", "cpu model"):
                return value.strip()
    if platform.system() == "Darwin":
        try:
            command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            pass
    return platform.processor() or platform.machine()
