"""The linear layers and token embeddings of `transformers` models that can have adapters, and those of ours that each of them holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from t2t.export.mapping import Interleaved, Joined, JoinedTransposed, Operation, Same, Tensor, Transposed

PREFIX = "base_model.model."
"""Prefix of the names of all tensors in a file of PEFT, before the name of the module in the model."""
KINDS = ("lora_A", "lora_B")
TABLE_KINDS = ("lora_embedding_A", "lora_embedding_B")
"""Low-rank matrices of a linear layer, and of a table."""
_TABLE = "embeddings/token/table"
_SHARED = "shared"
"""The module of a table that two stacks share. They look ids up in modules of their own with the same parameter, so that an adapter of this one has no effect."""
_BY_OUTPUT = (Same, Transposed, Joined, JoinedTransposed, Interleaved)
"""Operations that treat each output of a kernel alike, so that they can be applied to the second matrix of a low-rank product."""


@dataclass(frozen=True)
class Site:
    """A linear layer of theirs, which computes one or several of ours, or their table of token embeddings.

    module: its name.
    paths:  paths of our linear layers ("decoder/layers/attention/query"), or of our table.
    layer:  index into the leading axis of our parameters; None if they are not stacked.
    sizes:  inputs and outputs of each of our kernels; rows and width of a table.
    table:  whether it is a table.
    """

    module: str
    paths: tuple[str, ...]
    layer: int | None
    operation: Operation
    sizes: tuple[tuple[int, int], ...]
    table: bool = False

    @property
    def matrices(self) -> tuple[str, str]:
        """The names of the two matrices in a file."""
        return TABLE_KINDS if self.table else KINDS

    @property
    def inputs_first(self) -> bool:
        """Whether their kernel has the inputs first, as in the Conv1D layers of GPT-2 (`fan_in_fan_out`)."""
        return self.operation.shape([(1, outputs) for _, outputs in self.sizes])[0] == 1

    def to_theirs(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Return one matrix [outputs, k] for matrices [k, outputs] of our layers, one for each."""
        joined = self.operation.to_theirs(parts)
        return np.ascontiguousarray(joined.T if self.inputs_first else joined)

    def to_ours(self, theirs: np.ndarray) -> list[np.ndarray]:
        """Invert `to_theirs`."""
        shapes = [(theirs.shape[1], outputs) for _, outputs in self.sizes]
        return self.operation.to_ours(theirs.T if self.inputs_first else theirs, shapes)


def sites(wanted: Iterable[Tensor]) -> dict[str, Site]:
    """Return the layers by name. wanted: the tensors of a model (`t2t.models.families.exportable`)."""
    found = {}
    for tensor in wanted:
        module = tensor.name.removesuffix(".weight")
        if tensor.ours == (_TABLE,) and isinstance(tensor.operation, Same) and module != _SHARED:
            rows, width = tensor.shapes[0]
            path = _TABLE.removesuffix("/table")
            found[module] = Site(module, (path,), None, tensor.operation, ((rows, width),), table=True)
            continue
        kernels = [path.removesuffix("/kernel") for path in tensor.ours if path.endswith("/kernel")]
        if len(kernels) < len(tensor.ours) or not isinstance(tensor.operation, _BY_OUTPUT):
            continue
        assert not isinstance(tensor.layer, tuple), "the kernels of experts are not linear layers"
        sizes = tuple((shape[0], shape[1]) for shape in tensor.shapes)
        found[module] = Site(module, tuple(kernels), tensor.layer, tensor.operation, sizes)
    return found


def shortened(modules: Sequence[str], others: Iterable[str]) -> list[str]:
    """Return the shortest names that PEFT finds exactly these modules by: the last parts of their names if no other module ends like one, else `modules`."""
    last = {name.rpartition(".")[2] for name in modules}
    unwanted = {name.rpartition(".")[2] for name in others if name not in modules}
    return sorted(last) if not last & unwanted else sorted(modules)


def depths(known: Mapping[str, Site]) -> dict[str, int]:
    """Return the size of the leading axis of each stacked linear layer of ours."""
    found: dict[str, int] = {}
    for site in known.values():
        if site.layer is not None:
            found |= {path: max(found.get(path, 0), site.layer + 1) for path in site.paths}
    return found


def value(site: Site, path: str, flat: Mapping[str, Any]) -> np.ndarray:
    """Return a parameter of one layer, in float32. flat: path -> array, stacked or not."""
    leaf = flat[path]
    return np.asarray(leaf if site.layer is None else leaf[site.layer], np.float32)
