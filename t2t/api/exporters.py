"""Export formats that user code adds to `t2t export`."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, TypeVar

from t2t.errors import UserError
from t2t.train.run import SavedRun
from t2t.types import Params

BUILT_IN = ("stablehlo", "safetensors", "huggingface", "sentence-transformers", "gguf", "peft")
"""The formats of the library. Each has its own options."""


class Exporter(abc.ABC):
    """Base class of your own export formats. Add one with `register`; `t2t export RUN --format NAME --import FILE` writes it.

    name: the format's name for `--format`.
    """

    name: ClassVar[str]

    @abc.abstractmethod
    def write(self, run: SavedRun, params: Params, out: Path) -> None:
        """Write the files of the format.

        run:    the run at the exported step: `run.model`, `run.vocabulary`, `run.experiment`.
        params: its parameters, a nested dict of arrays.
        out:    an empty directory. Its files move to `--out` when this method returns. If it raises, `--out` does not change.

        Raises UserError if the format does not support the model.
        """


_Class = TypeVar("_Class", bound=type[Exporter])
_registered: dict[str, Exporter] = {}


def register(cls: _Class) -> _Class:
    """Decorator: register a format by its name and return the class. A later class with the same name replaces the earlier one.

    Raises UserError if the class has no name, or the name of a format of the library.
    """
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not name:
        raise UserError(f"exporter {cls.__name__}: name is {name!r}, not a non-empty str")
    if name in BUILT_IN:
        raise UserError(f"exporter {cls.__name__}: {name!r} is a format of the library. Choose another name.")
    _registered[name] = cls()
    return cls


def registered() -> Mapping[str, Exporter]:
    """Return the registered formats by name."""
    return MappingProxyType(_registered)
