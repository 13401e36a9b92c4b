"""Import T5X from a checkout, with stand-in modules for dependencies that cannot be installed. The checkout is not changed.

airio.core                      not on PyPI; T5X only uses it in annotations and isinstance().
jestimator.amos, .amos_helper   the package on PyPI needs other versions; T5X wraps the optimizer Amos during import, but the benchmarks do not use it.
t5x                             an empty package, so that t5x/__init__.py does not import evaluation, inference and export.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import optax


def stand_in(name: str, **attributes: Any) -> types.ModuleType:
    """Add a module with these attributes to sys.modules and to its parent package."""
    module = types.ModuleType(name)
    module.__dict__.update(attributes)
    sys.modules[name] = module
    parent, _, last = name.rpartition(".")
    if parent:
        setattr(sys.modules.get(parent) or stand_in(parent, __path__=[]), last, module)
    return module


def stand_ins() -> None:
    """Add all stand-in modules. Call before the first import of T5X."""
    names = ("Task", "Mixture", "AirIODatasetIterator", "DatasetProviderBase")
    stand_in("airio", __path__=[])
    stand_in("airio.core", **{name: type(name, (), {}) for name in names})
    stand_in("jestimator", __path__=[])
    stand_in("jestimator.amos", ScaleByAmosState=type("ScaleByAmosState", (), {}), amos=optax.adam)
    stand_in("jestimator.amos_helper", state_partition_rule=None)


def load(checkout: Path, name: str) -> Any:
    """Return a module of T5X."""
    if "t5x" not in sys.modules:
        package = types.ModuleType("t5x")
        package.__path__ = [str(checkout / "t5x")]
        sys.modules["t5x"] = package
    return importlib.import_module(f"t5x.{name}")


def bare(name: str) -> None:
    """Register an installed package without running its __init__, so that its submodules can be imported."""
    if name in sys.modules:
        return
    found = importlib.util.find_spec(name)
    assert found is not None, name
    package = types.ModuleType(name)
    package.__path__ = list(found.submodule_search_locations or [])
    sys.modules[name] = package
