"""Names of earlier versions, which user code, stored runs and scripts can still use.

| table | names | used by |
| --- | --- | --- |
| `NAMES` | Python names of a module | the module's `__getattr__`, see `of` |
| `CLASSES` | configuration classes in stored files | `t2t.config_classes` |
| `FIELDS` | fields of configuration classes | every `t2t.limits.Configuration`: at creation, in files and for attributes; options of the command line |
| `VALUES` | values of such fields | the same |
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

NAMES = {
    "t2t.launch.infer": {"infer": "t2t.api.inference.infer"},
    "t2t.losses": {"Loss": "t2t.objectives.cross_entropy.CrossEntropy"},
    "t2t.models.config": {"TransformerConfig": "t2t.models.transformer_config.TransformerConfig"},
    "t2t.train.run": {"Run": "t2t.train.run.SavedRun"},
}
"""Module -> former name -> present location of the object."""

CLASSES = {"t2t.losses.Loss": "t2t.objectives.cross_entropy.CrossEntropy"}
"""Former name of a configuration class -> its present name."""

SIZES = {
    "layers": "num_layers",
    "decoder_layers": "num_decoder_layers",
    "embed": "d_model",
    "mlp": "d_ff",
    "heads": "num_heads",
    "kv_heads": "num_kv_heads",
}
"""Former name of a model size -> its present name, which is the name in `transformers`."""

FIELDS: dict[str, Mapping[str, str]] = {
    "t2t.models.config.StackConfig": SIZES,
    "t2t.models.config.LayerOptions": SIZES,
    "t2t.launch.grid.comparison.Comparison": SIZES,
}
"""Configuration class -> former name of a field -> its present name."""

VALUES: dict[str, Mapping[str, Mapping[Any, Any]]] = {"t2t.models.encoder.EncoderConfig": {"head": {"words": "tokens"}}}
"""Configuration class -> field -> former value -> present value."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


def of(module: str) -> Callable[[str], Any]:
    """Return a `__getattr__` function for a module that finds its former names."""

    def find(name: str) -> Any:
        now = NAMES[module].get(name)
        if now is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        place, _, attribute = now.rpartition(".")
        return getattr(importlib.import_module(place), attribute)

    return find


def fields(cls: type) -> Mapping[str, str]:
    """Return former name -> present name for the fields of a configuration class."""
    return _fields(cls)


@functools.cache
def _fields(cls: Any) -> Mapping[str, str]:
    tables = [FIELDS.get(f"{base.__module__}.{base.__qualname__}", {}) for base in reversed(cls.__mro__)]
    return {old: new for table in tables for old, new in table.items()}


@functools.cache
def _values(cls: Any) -> Mapping[str, Mapping[Any, Any]]:
    tables = [VALUES.get(f"{base.__module__}.{base.__qualname__}", {}) for base in reversed(cls.__mro__)]
    return {field: values for table in tables for field, values in table.items()}


def renamed(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a configuration's fields under their present names.

    A former name takes precedence over the present one, because `dataclasses.replace` adds all present names to its arguments.
    """
    now = {**values, **{new: values[old] for old, new in fields(cls).items() if old in values}}
    for field, table in _values(cls).items():
        if isinstance(now.get(field), str):
            now[field] = table.get(now[field], now[field])
    return {name: value for name, value in now.items() if name not in fields(cls)}


def value(field: str, text: str) -> str:
    """Return the present value of a field of any class, for a value on the command line."""
    for tables in VALUES.values():
        text = tables.get(field, {}).get(text, text)
    return text


def sizes(function: _Function) -> _Function:
    """Decorator: let a function that returns a model configuration accept the former names of sizes."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **{SIZES.get(name, name): value for name, value in kwargs.items()})

    return call  # type: ignore[return-value]
