"""Formats of `t2t export` that the user's own code adds."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, TypeVar

from t2t.errors import UserError
from t2t.train.run import SavedRun
from t2t.types import Params

BUILT_IN = ("stablehlo", "safetensors", "huggingface")
"""The formats of the library; each has options of its own."""


class Exporter(abc.ABC):
    """A format of your own. `register` makes it known; `t2t export RUN --format NAME --import FILE` writes it.

    name: what `--format` calls it.
    """

    name: ClassVar[str]

    @abc.abstractmethod
    def write(self, run: SavedRun, params: Params, out: Path) -> None:
        """Write the files of the format.

        run:    the run at the step that is exported: `run.model`, `run.vocabulary`, `run.experiment`.
        params: its parameters, a nested dict of arrays.
        out:    an empty directory. Its files become those of `--out` when this returns; nothing appears there when it raises.

        Raises UserError for a model that the format has no place for.
        """


_Class = TypeVar("_Class", bound=type[Exporter])
_registered: dict[str, Exporter] = {}


def register(cls: _Class) -> _Class:
    """Make a format known by its name, and return the class: a decorator. A later class of the same name replaces an earlier one.

    Raises UserError where the class has no name, or the name of a format of the library.
    """
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not name:
        raise UserError(f"exporter {cls.__name__}: name is {name!r}; --format needs a text")
    if name in BUILT_IN:
        raise UserError(f"exporter {cls.__name__}: {name!r} is a format of the library. Choose another name.")
    _registered[name] = cls()
    return cls


def registered() -> Mapping[str, Exporter]:
    """Return the registered formats by name."""
    return MappingProxyType(_registered)
