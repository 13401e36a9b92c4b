"""Python names of earlier versions: code that users wrote, and that runs keep, imports them as before."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

NAMES = {
    "t2t.launch.infer": {"infer": "t2t.api.inference.infer"},
    "t2t.losses": {"Loss": "t2t.objectives.cross_entropy.CrossEntropy"},
    "t2t.train.run": {"Run": "t2t.train.run.SavedRun"},
}
"""Module -> its former names -> what they are now."""


def of(module: str) -> Callable[[str], Any]:
    """Return the function `__getattr__` of a module, which finds its former names."""

    def find(name: str) -> Any:
        now = NAMES[module].get(name)
        if now is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        place, _, attribute = now.rpartition(".")
        return getattr(importlib.import_module(place), attribute)

    return find
