"""The closed list of classes that a stored configuration may name. Reading a file never imports a module because the file says so.

A class of the stack is found in one of the modules listed here. A class of the user's own is found once the user's module is imported
(`--import`), which registers its dataclasses, or once `register` was called with it.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from types import ModuleType
from typing import TypeVar

from t2t import former_names
from t2t.errors import nearest

_MODULES = (
    "t2t.checkpoint.retention",
    "t2t.data.cached.manifest",
    "t2t.data.config",
    "t2t.decode.config",
    "t2t.launch.grid.costs",
    "t2t.models.config",
    "t2t.models.decoder",
    "t2t.models.electra.config",
    "t2t.models.electra.objective",
    "t2t.models.encoder",
    "t2t.models.encoder_decoder",
    "t2t.nn.attention.config",
    "t2t.nn.mlp",
    "t2t.nn.rotary",
    "t2t.objectives.cross_entropy",
    "t2t.optim.by_name",
    "t2t.optim.optimizers",
    "t2t.optim.schedules",
    "t2t.optim.trainable",
    "t2t.sharding.mesh",
    "t2t.train.evaluation",
    "t2t.train.experiment",
    "t2t.train.few_shot",
    "t2t.train.guard",
    "t2t.train.run",
    "t2t.vocabularies.bytes",
    "t2t.vocabularies.sentencepiece",
    "t2t.vocabularies.tokenizer",
    "t2t.vocabularies.wordpiece",
)
"""Modules of the stack whose dataclasses are written to files. Names, so that none is loaded before it is needed."""

OWN = "t2t_own"
"""The package that a file given by its path is imported into: `path/to/mine.py` is the module `t2t_own.mine` on every machine."""

_HASHED = re.compile(r"(\w+)_[0-9a-f]{8}\.(\w+)")
"""How older runs name the classes of such a file: with a hash of its whole path."""

_Class = TypeVar("_Class", bound=type)
_registered: dict[str, type] = {}
_own: set[str] = set()


def tag(cls: type) -> str:
    """Return the name that stands for a class in a file."""
    return f"{cls.__module__}.{cls.__qualname__}"


def register(cls: _Class) -> _Class:
    """Let stored configurations name this dataclass, and return it: a decorator for configuration classes of one's own."""
    _registered[tag(cls)] = cls
    return cls


def register_module(module: ModuleType) -> None:
    """Register the dataclasses that are defined in a module that the user has asked for, or that it has imported from elsewhere.

    Functions of the module may from then on be named in a configuration too, see `is_own`.
    """
    _own.add(module.__name__)
    for value in vars(module).values():
        if isinstance(value, type) and dataclasses.is_dataclass(value):
            register(value)


def is_own(module: str) -> bool:
    """Return whether the user has asked for a module, or for the package it is in."""
    parts = module.split(".")
    return any(".".join(parts[:count]) in _own for count in range(1, len(parts) + 1))


def find(name: object) -> type | None:
    """Return the class that a file names; None where it is not in the list. Imports modules of the stack alone."""
    if not isinstance(name, str):
        return None
    name = former_names.CLASSES.get(name, name)
    if name in _registered:
        return _registered[name]
    module_name, _, class_name = name.rpartition(".")
    if module_name in _MODULES:
        cls = vars(importlib.import_module(module_name)).get(class_name)
        if isinstance(cls, type) and dataclasses.is_dataclass(cls) and cls.__module__ == module_name:
            return cls
    if old := _HASHED.fullmatch(name):
        return _registered.get(f"{OWN}.{old[1]}.{old[2]}")
    return None


def alike(name: object) -> str:
    """Return the sentence that names the classes most like one that is not there."""
    known = list(_registered)
    for module_name in _MODULES:
        if module_name.startswith(("t2t.data.cached", "t2t.launch")):
            continue  # no part of a run's configuration
        module = importlib.import_module(module_name)
        known += [
            tag(value)
            for value in vars(module).values()
            if isinstance(value, type) and dataclasses.is_dataclass(value) and value.__module__ == module_name
        ]
    return nearest(str(name), known)
