"""The module Dense of `sentence-transformers`: a dense layer between the pooling and the normalization of a text's vector."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from t2t.errors import nearest
from t2t.export.family import Options
from t2t.export.mapping import Entry, Tensor, check_shapes, linear, resolve, tensors
from t2t.export.pickled_files import PickledFiles, open_tensors
from t2t.export.tensor_files import TensorFiles, write_tensors
from t2t.nn.model import Model
from t2t.stored_paths import check_links

if TYPE_CHECKING:
    from t2t.export.huggingface import Files

_LAYER = "vector_layer"
"""The folder of the layer's parameters."""
_CLASSES: dict[str, Literal["tanh", "identity"]] = {
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.linear.Identity": "identity",
}
_PLACE = "sentence_embedding"


@dataclass(frozen=True, kw_only=True)
class Dense:
    """A dense layer and its activation. size: number of outputs."""

    size: int
    activation: Literal["tanh", "identity"]
    bias: bool


def read_dense(options: Options, inputs: int) -> Dense:
    """Return what a module's config.json says. inputs: number of dimensions of the pooling.

    Raises UserError for another activation or number of inputs, or if the layer is not applied to the vector of the text.
    """
    options.must("in_features", inputs, why=f"the pooling is of {inputs} dimensions")
    for name in ("module_input_name", "module_output_name"):
        options.must(name, _PLACE, why="the layer is expected between the pooling and the normalization")
    activation = options.take("activation_function", next(iter(_CLASSES)))
    if activation not in _CLASSES:
        raise options.refuse(
            "activation_function",
            activation,
            f"supported are {', '.join(_CLASSES)}.{nearest(str(activation), _CLASSES)}",
        )
    return Dense(size=options.size("out_features"), activation=_CLASSES[activation], bias=options.flag("bias", True))


def dense_options(dense: Dense, inputs: int) -> dict[str, Any]:
    """Return the module's config.json."""
    activation = next(theirs for theirs, ours in _CLASSES.items() if ours == dense.activation)
    return {"in_features": inputs, "out_features": dense.size, "bias": dense.bias, "activation_function": activation}


def dense_tensors(model: Model) -> list[Tensor]:
    """Return the module's tensors, for a model that has the layer."""
    specs = {_LAYER: model.specs[_LAYER]}
    return tensors(_entries(bias="bias" in specs[_LAYER]["dense"]), specs)


def write_dense(folder: Path, flat: Mapping[str, Any], *, dtype: str) -> None:
    """Write the module's weights. flat: the parameters of the model, path -> array."""
    made = {
        entry.theirs: entry.operation.to_theirs([np.asarray(flat[path]) for path in entry.ours])
        for entry in _entries(bias=f"{_LAYER}/dense/bias" in flat)
    }
    write_tensors(folder, [(name, value.shape) for name, value in made.items()], made.__getitem__, dtype=dtype)


def _entries(*, bias: bool) -> list[Entry]:
    return linear("linear", f"{_LAYER}/dense", bias=bias)


class WithDense(AbstractContextManager["WithDense"]):
    """The tensors of a model and those of its module Dense, as one collection of files.

    wanted:  the module's tensors.
    folder:  the module's directory.

    Raises UserError if a tensor of the module is missing, unknown or of another shape.
    """

    def __init__(self, files: Files, wanted: list[Tensor], folder: Path) -> None:
        self.directory = files.directory
        self._files = files
        check_links(folder, (".safetensors", ".bin"))
        self._dense: TensorFiles | PickledFiles = open_tensors(folder)
        resolve(wanted, self._dense.names, where=folder)
        check_shapes(wanted, {tensor.name: [tensor.name] for tensor in wanted}, self._dense.shape, where=folder)

    def __exit__(self, *error: Any) -> None:
        self._dense.__exit__(*error)

    @property
    def names(self) -> Collection[str]:
        """The names of the tensors."""
        return [*self._files.names, *self._dense.names]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape without reading it."""
        return self._owner(name).shape(name)

    def equal(self, one: str, other: str) -> bool:
        """Whether two tensors are equal. Only tensors of the model have copies."""
        return self._files.equal(one, other)

    def read(self, name: str) -> np.ndarray:
        """Return a tensor in its stored type."""
        return self._owner(name).read(name)

    def _owner(self, name: str) -> Files | TensorFiles | PickledFiles:
        return self._dense if name in self._dense.names else self._files
