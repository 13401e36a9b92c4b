"""Postpone garbage collection at startup. Imports create hundreds of thousands of permanent objects, and collections would only scan them repeatedly."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

_postponed = False


def postpone() -> None:
    """Disable garbage collection until `resume`, at the start of a program."""
    global _postponed
    _postponed = _postponed or gc.isenabled()
    gc.disable()


def resume() -> None:
    """Undo `postpone`. Does nothing if `postpone` was not called."""
    global _postponed
    if _postponed:
        gc.enable()
    _postponed = False


@contextlib.contextmanager
def postponed() -> Iterator[None]:
    """Context without garbage collection."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
