"""Parameters of NNX layers: their logical axes and flags, and their conversion to and from a nested dict.

Only this module uses NNX's metadata and graph functions. Layers are built without arrays: a parameter holds its shape until
`Definition.bind` inserts arrays. So a model of any size can be described without memory.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from t2t.nn.initializers import Initializer
from t2t.nn.model import ParamSpec
from t2t.types import Params

Module = TypeVar("Module", bound=nnx.Module)
_STACKED = frozenset({"first", "layers", "tail"})
"""Folders of the layers of a stack."""


@dataclass(frozen=True)
class _Metadata:
    axes: tuple[str | None, ...]
    decay: bool
    init: Initializer
    trainable: bool
    used: float
    load_rate: float | None
    stands_for: float | None


def parameter(
    shape: tuple[int, ...],
    axes: tuple[str | None, ...],
    init: Initializer,
    *,
    decay: bool = True,
    trainable: bool = True,
    used: float = 1.0,
    load_rate: float | None = None,
    dtype: Any = jnp.float32,
    stands_for: float | None = None,
) -> nnx.Param:
    """Declare a parameter.

    axes:      a logical axis name, or None, for each dimension.
    decay:     whether weight decay applies. It does not apply to biases, norms and positions.
    trainable: whether training changes the parameter. An experiment may freeze more parameters (`t2t.optim.Trainable`), never fewer.
    used:      share of the values that process one token.
    load_rate, dtype, stands_for: see `t2t.nn.model.ParamSpec`; `dtype` is float32 but for parts of quantized kernels.
    """
    assert len(shape) == len(axes), (shape, axes)
    abstract = jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
    return nnx.Param(abstract, t2t=_Metadata(axes, decay, init, trainable, used, load_rate, stands_for))


def _variables(module: nnx.Module) -> list[tuple[tuple[str, ...], nnx.Variable]]:
    return [(tuple(map(str, path)), value) for path, value in nnx.iter_graph(module) if isinstance(value, nnx.Param)]


def stack(module: Module, layers: int) -> Module:
    """Add a leading axis "layers" to every parameter of a newly built `module`, and return the module."""
    for _, variable in _variables(module):
        value, metadata = variable.get_value(), variable.get_metadata("t2t")
        assert "layers" not in metadata.axes, "already stacked"
        variable.set_value(jax.ShapeDtypeStruct((layers, *value.shape), value.dtype))
        variable.set_metadata(t2t=replace(metadata, axes=("layers", *metadata.axes)))
    return module


def modules(module: nnx.Module, kind: type[Module]) -> dict[str, Module]:
    """Return the modules of a kind inside `module`, by path ("encoder/layers/attention/query"). A module in two places has its first path."""
    found = [("/".join(map(str, path)), value) for path, value in nnx.iter_graph(module) if isinstance(value, kind)]
    return dict(sorted(found, key=lambda item: item[0]))


def in_stack(path: str) -> bool:
    """Return whether a parameter or a module is in a stack of layers."""
    return not _STACKED.isdisjoint(path.split("/"))


def names(module: nnx.Module) -> list[str]:
    """Return the paths of the parameters of a module."""
    return ["/".join(path) for path, _ in _variables(module)]


def axes_of(variable: nnx.Param) -> tuple[str | None, ...]:
    """Return the logical axes of a parameter of a module."""
    metadata: _Metadata = variable.get_metadata("t2t")
    return metadata.axes


def share_used(variable: nnx.Param) -> float:
    """Return the share of the values of a parameter of a module that process one token."""
    metadata: _Metadata = variable.get_metadata("t2t")
    return metadata.used


def put(module: nnx.Module, name: str, part: nnx.Module) -> None:
    """Set an attribute that was None, or a parameter, to a module with parameters."""
    setattr(module, name, nnx.data(part))


def freeze(module: nnx.Module, frozen: Callable[[str], bool]) -> None:
    """Mark the parameters of a newly built `module` as frozen whose path satisfies `frozen`."""
    for path, variable in _variables(module):
        if frozen("/".join(path)):
            variable.set_metadata(t2t=replace(variable.get_metadata("t2t"), trainable=False))


class Definition(Generic[Module]):
    """A module without its arrays: its structure and a ParamSpec for each parameter.

    specs: nested dict of ParamSpec. The module's parameters are a nested dict of arrays with the same structure.
    """

    def __init__(self, module: Module) -> None:
        self._graph = nnx.graphdef(module)
        self._init: dict[tuple[str, ...], Initializer] = {}
        self.specs: dict[str, Any] = {}
        for path, variable in sorted(_variables(module), key=lambda item: item[0]):
            value, metadata = variable.get_value(), variable.get_metadata("t2t")
            self._init[path] = metadata.init
            spec = ParamSpec(
                value.shape,
                value.dtype,
                metadata.axes,
                metadata.decay,
                metadata.trainable,
                metadata.used,
                metadata.load_rate,
                metadata.stands_for,
            )
            _put(self.specs, path, spec)

    def init(self, key: jax.Array) -> Params:
        """Return initial parameters. The value of a parameter depends only on `key` and its path."""
        names = jnp.asarray([zlib.crc32("/".join(path).encode()) for path in self._init], jnp.uint32)
        # Compute all keys at once, and draw all layers together: each separate draw costs compile time.
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, names)
        params: Params = {}
        for param_key, (path, init) in zip(keys, self._init.items(), strict=True):
            _put(params, path, init(param_key, _get(self.specs, path).shape))
        return params

    def unbound(self) -> Module:
        """Return the module without arrays, as it was built."""
        shapes: Params = {}
        for path in self._init:
            spec: ParamSpec = _get(self.specs, path)
            _put(shapes, path, jax.ShapeDtypeStruct(spec.shape, spec.dtype))
        return self.bind(shapes)

    def bind(self, params: Params) -> Module:
        """Return the module with the arrays `params`, for use in the current trace."""
        return nnx.merge(self._graph, nnx.State(params))


def unbind(module: Module) -> tuple[Any, Params]:
    """Split a module into its structure and a nested dict of its arrays."""
    graph, state = nnx.split(module)
    return graph, dict(nnx.to_pure_dict(state))


def rebind(graph: Any, params: Params) -> Any:
    """Insert arrays into a structure from `unbind`. Their shapes may differ, such as for one layer of a stack."""
    return nnx.merge(graph, nnx.State(params))


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value


def _get(tree: dict[str, Any], path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[name]
    return tree
