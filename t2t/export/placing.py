"""Our parameters, filled from the tensors of another library and placed on their devices."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from t2t.errors import UserError
from t2t.export.directory import flatten, unflatten
from t2t.export.mapping import Index, Shape, Tensor
from t2t.nn.model import ParamSpec
from t2t.types import Params

LARGE = 2**28
"""Size in bytes from which a stacked parameter is filled one layer at a time."""


def read_params(
    wanted: Sequence[Tensor],
    specs: Mapping[str, Any],
    shardings: Mapping[str, Any],
    read: Callable[[str], np.ndarray],
    *,
    where: object,
) -> Params:
    """Return the parameters in float32, each placed directly on its devices. The host holds one parameter, or one layer of a large one, at a time.

    read:  name -> tensor of any floating type, with the shape that `check_shapes` checked.
    where: the directory, for error messages.

    Raises UserError, naming the tensor, if a value is not finite.
    """
    places: dict[str, dict[Index | None, tuple[Tensor, int]]] = {}
    for tensor in wanted:
        for part, path in enumerate(tensor.ours):
            places.setdefault(path, {})[tensor.layer] = (tensor, part)

    def piece(path: str, layer: Index | None) -> np.ndarray:
        if isinstance(layer, int) and layer not in places[path]:  # an expert at a time
            experts = sorted(place for place in places[path] if isinstance(place, tuple) and place[0] == layer)
            return np.stack([piece(path, place) for place in experts])
        tensor, part = places[path][layer]
        with np.errstate(over="ignore"):  # Reported below.
            value = np.asarray(read(tensor.name), np.float32)
        if not np.isfinite(value).all():
            bad = "NaN" if np.isnan(value).any() else "infinite"
            raise UserError(f"{where}: tensor {tensor.name} has values that are {bad} in float32")
        return tensor.operation.to_ours(value, tensor.shapes)[part]

    def make(path: str, spec: ParamSpec) -> jax.Array:
        if None in places[path]:
            return _placed(spec.shape, sharding[path], lambda: piece(path, None))
        if 4 * math.prod(spec.shape) >= LARGE:
            return _by_layer(spec.shape, sharding[path], lambda layer: piece(path, layer))

        def whole() -> np.ndarray:
            out = np.empty(spec.shape, np.float32)
            for layer in range(spec.shape[0]):
                out[layer] = piece(path, layer)
            return out

        return _placed(spec.shape, sharding[path], whole)

    sharding = flatten(dict(shardings))
    return unflatten({path: make(path, spec) for path, spec in flatten(dict(specs)).items()})


def _placed(shape: Shape, sharding: Any, make: Callable[[], np.ndarray]) -> jax.Array:
    value = np.array(make(), np.float32, order="C")
    return jax.make_array_from_callback(shape, sharding, lambda index: value[index]).block_until_ready()


def _by_layer(shape: Shape, sharding: NamedSharding, make: Callable[[int], np.ndarray]) -> jax.Array:
    """Fill a stacked array on its devices one layer at a time, so that the host never holds the whole array."""
    spec = (*sharding.spec, *(None,) * (len(shape) - len(sharding.spec)))
    layer_sharding = NamedSharding(sharding.mesh, PartitionSpec(*spec[1:]))

    def update(whole: jax.Array, part: jax.Array, layer: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_index_in_dim(whole, part, layer, 0)

    update = jax.jit(update, donate_argnums=0, out_shardings=sharding)
    whole = jax.jit(lambda: jnp.zeros(shape, jnp.float32), out_shardings=sharding)()
    for layer in range(shape[0]):
        part = _placed(shape[1:], layer_sharding, lambda layer=layer: make(layer))  # type: ignore[misc]
        whole = update(whole, part, jnp.int32(layer)).block_until_ready()
    return whole
