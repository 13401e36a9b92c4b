"""What a run ran on, as RUN/machine.json keeps it."""

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
    """Return this process's machine as JSON values; what cannot be found out is left out.

    python, and each of `PACKAGES` that is installed: versions (read from the packages' metadata, nothing is imported but JAX).
    host, os, cpu: names. cores: those this process may use. memory_gb: of the host, in 2^30 bytes.
    processes: how many make up the run. devices: the run's, over all processes, alike ones counted together:
    `[{"platform": "cpu", "kind": "cpu", "count": 1, "memory_gb": ...}]`.

    Starts JAX's backend; with many processes call it after `jax.distributed.initialize`.
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
    except Exception:  # backends differ in how they say that they do not know; a description must not end a run
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
