"""Train text-to-text models in JAX: tasks with prefixes, sharded encoders, decoders and encoder-decoders.

`import t2t` imports neither JAX nor TensorFlow. Each name is imported at its first use. See docs/python.md.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from t2t import models as models
    from t2t import tasks as tasks
    from t2t.api import recipes as recipes
    from t2t.api.loading import load as load
    from t2t.api.run import Run as Run
    from t2t.api.training import train as train
    from t2t.data.config import Data as Data
    from t2t.decode.config import Beam as Beam
    from t2t.decode.config import Greedy as Greedy
    from t2t.decode.config import Sampling as Sampling
    from t2t.errors import UserError as UserError
    from t2t.tasks import metrics as metrics
    from t2t.tasks import objectives as objectives
    from t2t.tasks import sources as sources
    from t2t.train.callbacks import Callback as Callback
    from t2t.train.callbacks import Control as Control
    from t2t.train.early_stopping import EarlyStopping as EarlyStopping
    from t2t.train.experiment import Experiment as Experiment

__version__ = "0.1.0"

_NAMES = {
    "Beam": "t2t.decode.config",
    "Callback": "t2t.train.callbacks",
    "Control": "t2t.train.callbacks",
    "Data": "t2t.data.config",
    "EarlyStopping": "t2t.train.early_stopping",
    "Experiment": "t2t.train.experiment",
    "Greedy": "t2t.decode.config",
    "Run": "t2t.api.run",
    "Sampling": "t2t.decode.config",
    "UserError": "t2t.errors",
    "load": "t2t.api.loading",
}
"""Name -> the module with this attribute."""

_MODULES = {
    "metrics": "t2t.tasks.metrics",
    "models": "t2t.models",
    "objectives": "t2t.tasks.objectives",
    "recipes": "t2t.api.recipes",
    "sources": "t2t.tasks.sources",
    "tasks": "t2t.tasks",
    "train": "t2t.train",  # a callable package, see there
}
"""Name -> the module itself."""

__all__ = ["__version__", *sorted([*_NAMES, *_MODULES])]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _NAMES and name not in _MODULES:
        raise AttributeError(f"module 't2t' has no attribute {name!r}")
    importlib.import_module("t2t.api.session").set_environment()  # before JAX is imported
    if name in _NAMES:
        value = getattr(importlib.import_module(_NAMES[name]), name)
    else:
        if _MODULES[name].startswith("t2t.tasks"):
            importlib.import_module("t2t.api.quiet").import_tensorflow()
        value = importlib.import_module(_MODULES[name])
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
