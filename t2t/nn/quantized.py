"""Matrix products in eight bits, forward and backward, with float operands and float results.

The library is qwix: it quantizes (`qwix.quantize`) and multiplies quantized operands (`qwix.dot_general`). This module chooses the types of each product.
Scales are computed from the operands of each product, so there is no state.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from t2t.errors import UserError
from t2t.installing import how_to_install

Quantization = Literal["none", "int8", "fp8", "ternary"]


@dataclass(frozen=True, kw_only=True)
class _Types:
    """Types of the quantized operands.

    values:    type of inputs and kernels.
    gradients: type of the gradients of the outputs.
    kernels:   whether the product that computes the kernel's gradient is quantized too.
    """

    values: Any
    gradients: Any
    kernels: bool


_TYPES = {
    "int8": _Types(values=jnp.int8, gradients=jnp.int8, kernels=False),
    "fp8": _Types(values=jnp.float8_e4m3fn, gradients=jnp.float8_e5m2, kernels=True),
}


_CALIBRATION = {
    # qwix divides by 127.5. This puts the largest value of each vector on the border between two integers, so the last bit of the quotient, and
    # with it the compiler, would decide which one it is. With 127 it is exactly an integer.
    jnp.int8: f"absmax,{127.5 / 127}",
    jnp.float8_e4m3fn: "absmax",
    jnp.float8_e5m2: "absmax",
}


def check_installed(quantization: Quantization) -> None:
    """Raise UserError if `quantization` needs qwix and it is not installed."""
    if quantization in ("none", "ternary"):
        return
    try:
        importlib.import_module("qwix")
    except ImportError as error:
        raise UserError(
            f"model.quantization is {quantization!r}, which needs the package {error.name}: {how_to_install('quantized')}. Nearest: none."
        ) from None


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def quantized_matmul(
    x: Float[Array, "N I"], kernel: Float[Array, "I O"], quantization: Literal["int8", "fp8"]
) -> Float[Array, "N O"]:
    """Multiply in eight bits and return the type of `x`. Each gradient has the type of its operand.

    Each operand has one scale for each vector that is multiplied: in the forward pass, for each row of `x` and each column of `kernel`. So the output of a
    token does not depend on other tokens. Sums are int32, or floats for "fp8".

    "int8": quantizes the forward product and the product for the inputs' gradient. The kernel's gradient, a sum over all tokens, is computed in the type of `x`
            (SwitchBack, Wortsman et al. 2023, section 2).
    "fp8":  quantizes all three products. Values are E4M3, gradients of outputs E5M2 (Micikevicius et al. 2022, section 3).

    The gradient of the rounding is the identity. If a vector has a value that is not finite, its products are NaN, as without quantization.
    """
    types = _TYPES[quantization]
    return _product(x, kernel, (1, 0), (types.values, types.values), x.dtype)


def _forward(x: jax.Array, kernel: jax.Array, quantization: str) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # Save the float operands. The backward pass quantizes them again, along the other axis.
    return quantized_matmul(x, kernel, quantization), (x, kernel)


def _backward(
    quantization: str, saved: tuple[jax.Array, jax.Array], gradient: Float[Array, "N O"]
) -> tuple[jax.Array, jax.Array]:
    (x, kernel), types = saved, _TYPES[quantization]
    x_gradient = _product(gradient, kernel, (1, 1), (types.gradients, types.values), x.dtype)
    if types.kernels:
        kernel_gradient = _product(x, gradient, (0, 0), (types.values, types.gradients), x.dtype)
    else:
        kernel_gradient = jax.lax.dot_general(x, gradient, (((0,), (0,)), ((), ())))
    return x_gradient, kernel_gradient.astype(kernel.dtype)


quantized_matmul.defvjp(_forward, _backward)


def _product(left: jax.Array, right: jax.Array, contracted: tuple[int, int], types: tuple[Any, Any], out: Any) -> Any:
    """Quantize both matrices, with one scale for each vector along their `contracted` axes, and multiply."""
    import qwix

    rounded = [_round(*each) for each in zip((left, right), contracted, types, strict=True)]
    dimensions = (((contracted[0],), (contracted[1],)), ((), ()))
    return qwix.dot_general(*rounded, dimensions, preferred_element_type=out)


def _round(matrix: jax.Array, axis: int, dtype: Any) -> Any:
    """Return a `qwix.QArray` with one scale for each vector along `axis`."""
    import qwix

    # In float32: in bfloat16 the quotient by the scale would be rounded before it is rounded to eight bits.
    wide = matrix.astype(jnp.float32)
    rounded = qwix.quantize(wide, dtype, channelwise_axes=(1 - axis,), calibration_method=_CALIBRATION[dtype])
    # Integers cannot be NaN, and XLA's maximum on CPUs ignores NaN.
    finite = jnp.all(jnp.isfinite(wide), axis=axis, keepdims=True)
    return dataclasses.replace(rounded, scale=jnp.where(finite, rounded.scale, jnp.nan))
