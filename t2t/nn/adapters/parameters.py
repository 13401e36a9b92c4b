"""Parameters of a network with adapters: their first values that depend on kernels, and kernels with merged adapters."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial

import jax.numpy as jnp
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from t2t.nn.adapters.low_rank import Adaptable
from t2t.nn.linear import Linear, LinearAdapter
from t2t.nn.parameters import modules
from t2t.types import Params


def started(network: nnx.Module, params: Params, fresh: Collection[str] | None) -> Params:
    """Return the parameters with first values for those that depend on a kernel (DoRA's magnitudes).

    network: the network with the arrays `params`.
    fresh:   paths of the parameters that may be changed; None for all.
    """
    flat = flatten_dict(params, sep="/")
    for path, linear, adapter in _adapted(network):
        for name, value in adapter.started(partial(linear.kernel.__getitem__, ...)).items():
            place = f"{path}/adapter/{name}"
            if fresh is None or place in fresh:
                flat[place] = value
    nested: Params = unflatten_dict(flat, sep="/")
    return nested


def disabled(params: Params) -> Params:
    """Return the parameters with LoRA matrices that are zero: the model computes what it computes without its adapter, bit for bit."""
    flat = flatten_dict(params, sep="/")
    lora = [path for path in flat if "/adapter/" in path and path.endswith(("/a", "/b"))]
    nested: Params = unflatten_dict({**flat, **{path: jnp.zeros_like(flat[path]) for path in lora}}, sep="/")
    return nested


def merged(network: nnx.Module, params: Params) -> Params:
    """Return the parameters of the network without adapters that computes the same, up to rounding. Other parameters are not copied.

    network: the network with the arrays `params`.
    """
    flat = flatten_dict(params, sep="/")
    for path, linear, adapter in _adapted(network):
        flat[f"{path}/kernel"], bias = adapter.merged(
            linear.kernel[...], None if linear.bias is None else linear.bias[...]
        )
        if bias is not None:
            flat[f"{path}/bias"] = bias
        for name in [name for name in flat if name.startswith(f"{path}/adapter/")]:
            del flat[name]
    for path, module in modules(network, Adaptable).items():
        for end, name in module.adaptable().items():
            if (low_rank := module.adapter_of(name)) is not None:
                place = f"{path}/adapter/{end}" if end else f"{path}/adapter"
                flat[f"{path}/{name}"] = low_rank.merged(flat[f"{path}/{name}"])
                del flat[f"{place}/a"], flat[f"{place}/b"]
    nested: Params = unflatten_dict(flat, sep="/")
    return nested


def _adapted(network: nnx.Module) -> Iterator[tuple[str, Linear, LinearAdapter]]:
    for path, linear in modules(network, Linear).items():
        if linear.adapter is not None:
            yield path, linear, linear.adapter
