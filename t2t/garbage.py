"""Python's garbage collector while a program starts: it would go several times through the hundreds of thousands of objects that imports leave, all of which stay."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

_postponed = False


def postpone() -> None:
    """Collect nothing until `resume`: at the start of a program, which is about to import and to trace."""
    global _postponed
    _postponed = _postponed or gc.isenabled()
    gc.disable()


def resume() -> None:
    """Collect as before `postpone`; nothing where that was not called."""
    global _postponed
    if _postponed:
        gc.enable()
    _postponed = False


@contextlib.contextmanager
def postponed() -> Iterator[None]:
    """Collect nothing inside."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
