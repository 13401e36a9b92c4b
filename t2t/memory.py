"""Host memory that this process can still use."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def available() -> int | None:
    """Return the available bytes: the minimum over the machine, the process limit (`ulimit -v`) and the limit of the control group. None if unknown."""
    if sys.platform != "linux":
        return None
    import resource

    left = []
    machine = _kibibytes("/proc/meminfo")
    if "MemAvailable" in machine:
        left.append(machine["MemAvailable"] + machine.get("SwapFree", 0))
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    used = _kibibytes("/proc/self/status").get("VmSize")
    if limit != resource.RLIM_INFINITY and used is not None:
        left.append(limit - used)
    group = _text("/sys/fs/cgroup/memory.max").strip()
    if group.isdigit():
        left.append(int(group))
    return max(min(left), 0) if left else None


def _kibibytes(path: str) -> dict[str, int]:
    return {name: int(size) << 10 for name, size in re.findall(r"^(\w+):\s+(\d+) kB", _text(path), re.MULTILINE)}


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
