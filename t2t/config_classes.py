"""The closed list of classes that a stored configuration may contain. A file's content never causes the import of another module.

The library's classes are in the modules listed here. A user's class is found after the import of its module (`--import`), which registers
the module's dataclasses, or after a call of `register`.
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
    "t2t.adapters.config",
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
    "t2t.nn.attention.latent",
    "t2t.nn.attention.merged",
    "t2t.nn.attention.transient_global",
    "t2t.nn.convolution",
    "t2t.nn.disentangled",
    "t2t.nn.mlp",
    "t2t.nn.moe.layer",
    "t2t.nn.moe.router",
    "t2t.nn.recurrent.channel_mixing",
    "t2t.nn.recurrent.gated_delta_net",
    "t2t.nn.recurrent.gated_linear_attention",
    "t2t.nn.recurrent.mamba",
    "t2t.nn.recurrent.mamba2",
    "t2t.nn.recurrent.retention",
    "t2t.nn.recurrent.rwkv4",
    "t2t.nn.recurrent.rwkv7",
    "t2t.nn.recurrent.time_steps",
    "t2t.nn.rotary",
    "t2t.nn.sparse",
    "t2t.objectives.contrastive",
    "t2t.objectives.cross_entropy",
    "t2t.objectives.distillation",
    "t2t.objectives.preference",
    "t2t.optim.by_name",
    "t2t.optim.ema",
    "t2t.optim.muon",
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
    "t2t.vocabularies.characters",
    "t2t.vocabularies.marian",
    "t2t.vocabularies.sentencepiece",
    "t2t.vocabularies.tokenizer",
    "t2t.vocabularies.wordpiece",
)
"""Modules of the library with dataclasses that are written to files. They are imported only when needed."""

OWN = "t2t_own"
"""The package of files imported by path: `path/to/mine.py` is the module `t2t_own.mine` on every machine."""

_HASHED = re.compile(r"(\w+)_[0-9a-f]{8}\.(\w+)")
"""Name of a class from such a file in older runs: it contains a hash of the file's path."""

_Class = TypeVar("_Class", bound=type)
_registered: dict[str, type] = {}
_own: set[str] = set()


def tag(cls: type) -> str:
    """Return the name of a class in files."""
    return f"{cls.__module__}.{cls.__qualname__}"


def register(cls: _Class) -> _Class:
    """Decorator for your own configuration classes: allow the dataclass in stored configurations, and return it."""
    _registered[tag(cls)] = cls
    return cls


def register_module(module: ModuleType) -> None:
    """Register all dataclasses in a user module, including those that it imports.

    After this call, a configuration may also contain functions of the module, see `is_own`.
    """
    _own.add(module.__name__)
    for value in vars(module).values():
        if isinstance(value, type) and dataclasses.is_dataclass(value):
            register(value)


def is_own(module: str) -> bool:
    """Return whether the user has imported a module or its package."""
    parts = module.split(".")
    return any(".".join(parts[:count]) in _own for count in range(1, len(parts) + 1))


def find(name: object) -> type | None:
    """Return the class with a name from a file, or None if it is not in the list. Imports only modules of the library."""
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


def nearest_classes(name: object) -> str:
    """Return " Nearest: ..." with the classes most similar to an unknown one."""
    known = list(_registered)
    for module_name in _MODULES:
        if module_name.startswith(("t2t.data.cached", "t2t.launch")):
            continue  # not part of a run's configuration
        module = importlib.import_module(module_name)
        known += [
            tag(value)
            for value in vars(module).values()
            if isinstance(value, type) and dataclasses.is_dataclass(value) and value.__module__ == module_name
        ]
    return nearest(str(name), known)
