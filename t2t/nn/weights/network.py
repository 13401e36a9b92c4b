"""Quantize the kernels of a network, and the parameters that belong to them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from t2t.errors import UserError
from t2t.nn.linear import Linear
from t2t.nn.parameters import axes_of, in_stack, modules, put, stack
from t2t.nn.weights import QuantizedKernel, kernel_of, quantized
from t2t.types import Params


def quantize_kernels(network: nnx.Module, format: str, wanted: Callable[[str], bool] | None) -> list[str]:
    """Put quantized kernels in the place of float kernels in a newly built network, and return their paths.

    Only linear layers in stacks of layers are quantized: not embeddings, heads, and the kernels of experts.

    wanted: whether to quantize the kernel with this path; None quantizes all.
    """
    replaced = []
    for path, linear in modules(network, Linear).items():
        kernel = f"{path}/kernel"
        if not in_stack(path) or not (wanted is None or wanted(kernel)):
            continue
        assert isinstance(linear.kernel, nnx.Param), "the kernel is quantized"
        *layers, inputs, outputs = linear.kernel.get_value().shape
        axes = axes_of(linear.kernel)[-2:]
        built = QuantizedKernel(format, inputs, outputs, (axes[0], axes[1]))
        put(linear, "kernel", stack(built, layers[0]) if layers else built)
        replaced.append(kernel)
    return replaced


def check_quantizable(specs: Mapping[str, Any], products: str, format: str, *, option: str) -> None:
    """Raise UserError if most kernels of a model cannot be quantized: those of experts, and those that products round to -1, 0 and 1 in another format than "ternary".

    products: type of the model's products, `ModelConfig.quantization`.
    option:   where the format came from.
    """
    if (products == "ternary") != (format == "ternary"):
        rounded = (
            "round its kernels to ternary weights already" if products == "ternary" else "do not round its kernels"
        )
        nearest = "ternary" if products == "ternary" else "none"
        raise UserError(
            f"quantize {format!r} ({option}): the products of the model {rounded} (model.quantization {products}). Nearest: {nearest}."
        )
    experts = [path for path, spec in flatten_dict(dict(specs), sep="/").items() if "experts" in spec.axes]
    if experts:
        raise UserError(
            f"quantize {format!r} ({option}): the kernels of experts cannot be quantized ({experts[0]}). Nearest: none."
        )


def compressed(params: Params, kernels: Collection[str], format: str) -> Params:
    """Return the parameters with the kernels of these paths quantized. Kernels that are missing, or quantized already, stay as they are."""
    flat = flatten_dict(params, sep="/")
    for kernel in flat.keys() & set(kernels):
        for name, part in quantized(format, flat.pop(kernel)).items():
            flat[f"{kernel}/{name}"] = part
    nested: Params = unflatten_dict(flat, sep="/")
    return nested


def expanded(network: nnx.Module, params: Params) -> Params:
    """Return the parameters with float kernels. network: the network with the arrays `params`."""
    flat = {path: leaf for path, leaf in flatten_dict(params, sep="/").items() if kernel_of(path) is None}
    for path, linear in modules(network, Linear).items():
        flat[f"{path}/kernel"] = linear.kernel[...]
    nested: Params = unflatten_dict(flat, sep="/")
    return nested
