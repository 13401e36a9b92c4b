"""Parameters of NNX layers: their logical axes, their decay flag, and the way to and from a nested dict.

The one module that touches NNX's metadata and graph functions. Layers are built without arrays: a parameter holds its shape until
`Definition.bind` puts arrays in, so that a model of any size is described without memory.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from t2t.nn.initializers import Initializer
from t2t.nn.model import ParamSpec
from t2t.types import Params

Module = TypeVar("Module", bound=nnx.Module)


@dataclass(frozen=True)
class _Metadata:
    axes: tuple[str | None, ...]
    decay: bool
    init: Initializer
    trainable: bool


def parameter(
    shape: tuple[int, ...],
    axes: tuple[str | None, ...],
    init: Initializer,
    *,
    decay: bool = True,
    trainable: bool = True,
) -> nnx.Param:
    """Declare a float32 parameter.

    axes:  a logical axis name, or None, for each dimension.
    decay: whether weight decay applies: not to biases, norms and positions.
    trainable: whether training changes it; an experiment may freeze more parameters (`t2t.optim.Trainable`), never fewer.
    """
    assert len(shape) == len(axes), (shape, axes)
    abstract = jax.ShapeDtypeStruct(shape, jnp.float32)
    return nnx.Param(abstract, t2t=_Metadata(axes, decay, init, trainable))


def _variables(module: nnx.Module) -> list[tuple[tuple[str, ...], nnx.Variable]]:
    return [(tuple(map(str, path)), value) for path, value in nnx.iter_graph(module) if isinstance(value, nnx.Param)]


def stack(module: Module, layers: int) -> Module:
    """Give every parameter of a newly built `module` a leading axis "layers" and return it."""
    for _, variable in _variables(module):
        value, metadata = variable.get_value(), variable.get_metadata("t2t")
        assert "layers" not in metadata.axes, "already stacked"
        variable.set_value(jax.ShapeDtypeStruct((layers, *value.shape), value.dtype))
        variable.set_metadata(t2t=replace(metadata, axes=("layers", *metadata.axes)))
    return module


class Definition(Generic[Module]):
    """A module with its arrays taken out: its structure and, for each parameter, a ParamSpec.

    specs: nested dict of ParamSpec; the module's parameters are a nested dict of arrays of that structure.
    """

    def __init__(self, module: Module) -> None:
        self._graph = nnx.graphdef(module)
        self._init: dict[tuple[str, ...], Initializer] = {}
        self.specs: dict[str, Any] = {}
        for path, variable in sorted(_variables(module), key=lambda item: item[0]):
            value, metadata = variable.get_value(), variable.get_metadata("t2t")
            self._init[path] = metadata.init
            spec = ParamSpec(value.shape, value.dtype, metadata.axes, metadata.decay, metadata.trainable)
            _put(self.specs, path, spec)

    def init(self, key: jax.Array) -> Params:
        """Make the parameters. A parameter's value depends on `key` and its own path alone."""
        names = jnp.asarray([zlib.crc32("/".join(path).encode()) for path in self._init], jnp.uint32)
        # All keys in one go, and layers drawn together: each draw of its own costs compile time.
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, names)
        params: Params = {}
        for own, (path, init) in zip(keys, self._init.items(), strict=True):
            _put(params, path, init(own, _get(self.specs, path).shape))
        return params

    def bind(self, params: Params) -> Module:
        """Return the module with `params` in it, to be used within the trace at hand."""
        return nnx.merge(self._graph, nnx.State(params))


def unbind(module: Module) -> tuple[Any, Params]:
    """Take a module with arrays apart into its structure and a nested dict of them."""
    graph, state = nnx.split(module)
    return graph, dict(nnx.to_pure_dict(state))


def rebind(graph: Any, params: Params) -> Any:
    """Put arrays back into a structure from `unbind`; their shapes may differ (one layer of a stack, say)."""
    return nnx.merge(graph, nnx.State(params))


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value


def _get(tree: dict[str, Any], path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[name]
    return tree
