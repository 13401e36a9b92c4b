"""The tensors of a checkpoint as they are named today: older names and prefixes of wrappers taken away."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np

from t2t.errors import UserError
from t2t.export.tensor_files import TensorFiles

_WRAPPERS = ("module.", "_orig_mod.", "model.", "transformer.", "bert.", "roberta.", "distilbert.", "albert.")
"""Prefixes that saving a model within another one puts before all names."""
_ENDINGS = {".gamma": ".weight", ".beta": ".bias"}
"""How the checkpoints that came from TensorFlow call a norm's scale and bias."""


class Published:
    """The tensors of files under the names that a family's table has.

    prefix: of the family's names, which is no wrapper's.
    Raises UserError where two tensors have one name today, and differ.
    """

    def __init__(self, files: TensorFiles, *, prefix: str) -> None:
        self.directory: Path = files.directory
        self._files = files
        self._stored: dict[str, str] = {}
        wrapped = wrapper(files.names, prefix)
        for stored in files.names:
            name = stored.removeprefix(wrapped)
            for old, new in _ENDINGS.items():
                if name.endswith(old):
                    name = name.removesuffix(old) + new
            if name in self._stored and not files.equal(self._stored[name], stored):
                raise UserError(
                    f"{files.directory}: tensors {self._stored[name]} and {stored} are both {name}, and differ"
                )
            self._stored[name] = stored

    @property
    def names(self) -> Collection[str]:
        """Their names."""
        return self._stored.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape without reading it."""
        return self._files.shape(self._stored[name])

    def equal(self, one: str, other: str) -> bool:
        """Whether two tensors are equal."""
        return self._files.equal(self._stored[one], self._stored[other])

    def read(self, name: str) -> np.ndarray:
        """Return a tensor in its own type. Raises UserError where that is no floating type."""
        return self._files.read(self._stored[name])


def wrapper(names: Iterable[str], prefix: str) -> str:
    """Return what stands before all names and belongs to none: "module." of "module.bert.embeddings...", "" where there is nothing."""
    names, found = list(names), ""
    while names:
        of_all = [wrapped for wrapped in _WRAPPERS if all(name.startswith(wrapped) for name in names)]
        if not of_all:
            break
        # The family's own prefix stands before all names of a model without a head; twice it does not.
        if of_all[0] == prefix and not any(name.startswith(2 * prefix) for name in names):
            break
        found += of_all[0]
        names = [name.removeprefix(of_all[0]) for name in names]
    return found
