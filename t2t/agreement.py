"""What processes of a run tell each other besides arrays: short lines of text, and that all have come to a point."""

from __future__ import annotations

import jax
import numpy as np
from jax.experimental import multihost_utils

ROOM = 8192
"""Bytes of text that a process may tell at a time; more is cut off."""


def gathered(lines: list[str]) -> list[str]:
    """Return the lines of all processes, the same on each, those of process 0 first. To be called on all processes."""
    if jax.process_count() == 1:
        return lines
    text = np.frombuffer("\n".join(lines).encode()[:ROOM].ljust(ROOM, b"\0"), np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(text)).reshape(-1, ROOM)
    texts = [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in rows]
    return [line for text in texts for line in text.split("\n") if line]


def together(what: str) -> None:
    """Return when all processes have called this with the same text."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)
