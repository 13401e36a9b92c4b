"""The tensors of a checkpoint under their current names: replaces old names and removes the prefixes of wrappers."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np

from t2t.errors import UserError
from t2t.export.mxfp4 import Unpacked
from t2t.export.packed_ternary import UnpackedTernary
from t2t.export.pickled_files import PickledFiles
from t2t.export.tensor_files import TensorFiles

_WRAPPERS = ("module.", "_orig_mod.", "model.", "transformer.", "bert.", "roberta.", "distilbert.", "albert.")
"""Prefixes added to all names when a model is saved as part of another module."""
_ENDINGS = {".gamma": ".weight", ".beta": ".bias"}
"""Names of a norm's scale and bias in checkpoints converted from TensorFlow -> current names."""


class Published:
    """The tensors of a directory, under the names in a family's table.

    prefix: prefix of the family's names, which is not removed.
    Raises UserError if two tensors have the same current name but differ.
    """

    def __init__(self, files: TensorFiles | PickledFiles | Unpacked | UnpackedTernary, *, prefix: str) -> None:
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
                    f"{files.directory}: tensors {self._stored[name]} and {stored} are both {name}, but differ"
                )
            self._stored[name] = stored

    @property
    def names(self) -> Collection[str]:
        """The current names of the tensors."""
        return self._stored.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape without reading it."""
        return self._files.shape(self._stored[name])

    def equal(self, one: str, other: str) -> bool:
        """Whether two tensors are equal."""
        return self._files.equal(self._stored[one], self._stored[other])

    def read(self, name: str) -> np.ndarray:
        """Return a tensor in its stored type. Raises UserError if that is not a floating type."""
        return self._files.read(self._stored[name])


def wrapper(names: Iterable[str], prefix: str) -> str:
    """Return the wrapper prefix of all names, or "": "module." for "module.bert.embeddings..."."""
    names, found = list(names), ""
    while names:
        common = [wrapped for wrapped in _WRAPPERS if all(name.startswith(wrapped) for name in names)]
        if not common:
            break
        # The names of a model without a head all have the family's prefix. Only a repeated prefix is a wrapper.
        if common[0] == prefix and not any(name.startswith(2 * prefix) for name in names):
            break
        found += common[0]
        names = [name.removeprefix(common[0]) for name in names]
    return found
