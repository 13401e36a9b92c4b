"""T5X from a checkout, with what it imports and cannot be had replaced by stand-ins in this process; the checkout stays as it is.

airio.core                  not on PyPI; T5X uses it in annotations and isinstance() alone.
jestimator.amos, .amos_helper   PyPI's needs other versions; T5X wraps the optimizer Amos at import, and nobody asks for it here.
t5x itself                  a bare package, so that t5x/__init__.py does not import evaluation, inference and export too.
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
    """Put a module in sys.modules, and in its parent."""
    made = types.ModuleType(name)
    made.__dict__.update(attributes)
    sys.modules[name] = made
    parent, _, own = name.rpartition(".")
    if parent:
        setattr(sys.modules.get(parent) or stand_in(parent, __path__=[]), own, made)
    return made


def stand_ins() -> None:
    """Replace what cannot be had. Call before the first import of T5X."""
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
    """Make an installed package one whose own __init__ does not run, for its submodules' sake."""
    if name in sys.modules:
        return
    found = importlib.util.find_spec(name)
    assert found is not None, name
    package = types.ModuleType(name)
    package.__path__ = list(found.submodule_search_locations or [])
    sys.modules[name] = package
