"""Experiments and runs: the state, the step, the loop and evaluation. `t2t.train(...)` trains, see `t2t.api.training.train`.

Importing any part of this package sets the attribute `t2t.train` to the package. So the package itself is callable.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _Package(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Train, with the arguments of `t2t.api.training.train`."""
        return importlib.import_module("t2t.api.training").train(*args, **kwargs)


sys.modules[__name__].__class__ = _Package
