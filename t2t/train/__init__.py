"""Experiments and runs: the state, the step, the loop, evaluation. `t2t.train(...)` trains, see `t2t.api.training.train`.

Python sets the attribute `train` of `t2t` to this package as soon as anything of it is imported, so the package itself can be called.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _Package(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Train; the arguments are those of `t2t.api.training.train`."""
        return importlib.import_module("t2t.api.training").train(*args, **kwargs)


sys.modules[__name__].__class__ = _Package
