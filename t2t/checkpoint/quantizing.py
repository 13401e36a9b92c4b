"""Read float kernels from a checkpoint and quantize them, so that only a few of them are in memory as floats at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict
from jax.sharding import NamedSharding, PartitionSpec

from t2t.checkpoint.tree import flatten
from t2t.nn.weights import FORMATS, kernel_of, quantized
from t2t.types import Params

AT_ONCE = 2**28
"""Kernels are read together up to this size in bytes."""

Flat = dict[str, Any]


def as_floats(wanted: Params, stored: Params) -> Params:
    """Return the parameters to read: those of `wanted`, with float kernels in the place of quantized ones that `stored` has as floats.

    wanted, stored: nested dicts of ShapeDtypeStruct. Those of `wanted` have shardings.
    """
    have, floats = flatten(stored), {}
    for path, leaf in flatten(wanted).items():
        kernel = kernel_of(path)
        if kernel is None or path in have:
            floats[path] = leaf
        elif path == f"{kernel}/codes":
            # A kernel that is missing has the shape of its codes in the error.
            shape = have[kernel].shape if kernel in have else leaf.shape
            floats[kernel] = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=_of_kernel(leaf.sharding, len(shape)))
    return _nested(floats)


def read_quantized(read: Callable[[Params], Params], wanted: Params, stored: Params, format: str) -> Params:
    """Return the parameters of `wanted`, whose kernels are quantized in `format`. read: returns parameters that `stored` has, given their structs with shardings."""
    floats, flat = flatten(as_floats(wanted, stored)), flatten(wanted)
    kernels = {path: leaf for path, leaf in floats.items() if path not in flat}
    rest = {path: leaf for path, leaf in floats.items() if path in flat}
    found = flatten(read(_nested(rest))) if rest else {}
    for some in _batches(kernels):
        for kernel, value in flatten(read(_nested(some))).items():
            for name, part in quantized(format, value).items():
                path = f"{kernel}/{name}"
                found[path] = jax.device_put(part, flat[path].sharding)
            value.delete()
    return _nested(found)


def quantized_shapes(shapes: Flat, format: str, wanted: Callable[[str], bool]) -> Flat:
    """Return path -> ShapeDtypeStruct with the kernels quantized whose parts are wanted. wanted: whether a path is."""
    found = {}
    for path, leaf in shapes.items():
        if not wanted(f"{path}/codes"):
            found[path] = leaf
            continue
        *layers, inputs, outputs = leaf.shape
        for name, part in FORMATS[format].parts(inputs, outputs, (None, None)).items():
            found[f"{path}/{name}"] = jax.ShapeDtypeStruct((*layers, *part.shape), part.dtype)
    return found


def _batches(kernels: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield kernels up to the size of AT_ONCE together."""
    batch: dict[str, Any] = {}
    size = 0
    for path, leaf in kernels.items():
        more = 4 * math.prod(leaf.shape)
        if batch and size + more > AT_ONCE:
            yield batch
            batch, size = {}, 0
        batch[path] = leaf
        size += more
    if batch:
        yield batch


def _of_kernel(sharding: Any, dimensions: int) -> Any:
    """Return the sharding of a float kernel, given that of its codes, which have the output axis first."""
    if not isinstance(sharding, NamedSharding):
        return sharding
    axes = [*sharding.spec, *[None] * (dimensions - len(sharding.spec))]
    axes[-2], axes[-1] = axes[-1], axes[-2]
    return NamedSharding(sharding.mesh, PartitionSpec(*axes))


def _nested(flat: Flat) -> Params:
    nested: Params = unflatten_dict(flat, sep="/")
    return nested
