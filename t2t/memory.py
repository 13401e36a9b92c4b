"""How much memory this process may still take on its host."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def available() -> int | None:
    """Return the bytes that are left: of the machine, of the process's limit (`ulimit -v`), of its control group. None where the system does not tell."""
    if sys.platform != "linux":
        return None
    import resource

    left = []
    machine = _kibibytes("/proc/meminfo")
    if "MemAvailable" in machine:
        left.append(machine["MemAvailable"] + machine.get("SwapFree", 0))
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    taken = _kibibytes("/proc/self/status").get("VmSize")
    if limit != resource.RLIM_INFINITY and taken is not None:
        left.append(limit - taken)
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
