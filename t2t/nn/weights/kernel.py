"""The kernel of a linear layer as a module: its parts are parameters, beside which there is no float kernel."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from t2t.nn.initializers import ZEROS
from t2t.nn.parameters import parameter
from t2t.nn.weights.format import Multiply
from t2t.nn.weights.formats import FORMATS


class QuantizedKernel(nnx.Module):
    """A frozen kernel [I O], stored in a format. `kernel[...]` is its float32 value.

    format: name of the format, see `t2t.nn.weights.formats`.
    axes:   logical axes of the kernel's two dimensions.
    """

    def __init__(self, format: str, inputs: int, outputs: int, axes: tuple[str | None, str | None]) -> None:
        self.format, self.inputs = format, inputs
        parts = FORMATS[format].parts(inputs, outputs, axes)
        self.names = tuple(parts)
        for name, part in parts.items():
            built = parameter(
                part.shape,
                part.axes,
                ZEROS,
                decay=False,
                trainable=False,
                dtype=part.dtype,
                stands_for=part.stands_for,
            )
            setattr(self, name, built)

    def __getitem__(self, key: Any) -> Float[Array, "*L I O"]:
        """Return the float32 kernel, or the kernels of a stack."""
        assert key is Ellipsis, "a quantized kernel is read as a whole"
        return dequantized(self.format, self._parts(), self.inputs)

    def product(self, x: Float[Array, "*B I"], multiply: Multiply) -> Float[Array, "*B O"]:
        """Return `multiply(x, kernel)`. The float kernel exists only during this call, forward and backward.

        The gradient saves the parts, not the kernel. The barriers keep the compiler from dequantizing before `x` is there: otherwise it would move the work out of
        the loop over steps or layers, and hold the float kernels of all layers.
        """
        format, inputs = FORMATS[self.format], self.inputs

        @jax.custom_vjp
        def run(x: jax.Array, parts: dict[str, jax.Array]) -> jax.Array:
            x, parts = jax.lax.optimization_barrier((x, parts))
            return format.product(x, parts, inputs, multiply)

        def forward(x: jax.Array, parts: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
            return run(x, parts), parts

        def backward(parts: dict[str, jax.Array], gradient: jax.Array) -> tuple[jax.Array, None]:
            gradient, parts = jax.lax.optimization_barrier((gradient, parts))
            # The gradient does not depend on `x`.
            zeros = jnp.zeros((*gradient.shape[:-1], inputs), gradient.dtype)
            _, pull = jax.vjp(lambda x: format.product(x, parts, inputs, multiply), zeros)
            return pull(gradient)[0], None

        run.defvjp(forward, backward)
        return run(x, self._parts())

    def _parts(self) -> dict[str, jax.Array]:
        return {name: getattr(self, name)[...] for name in self.names}


def kernel_of(path: str) -> str | None:
    """Return the path of the kernel that the parameter `path` is a part of ("up/kernel/codes" -> "up/kernel"); None if it is not such a part."""
    folder, _, _ = path.rpartition("/")
    return folder if folder.split("/")[-1] == "kernel" else None


@partial(jax.jit, static_argnames="format")
def quantized(format: str, kernel: Float[Array, "*L I O"]) -> dict[str, jax.Array]:
    """Return the parts that store a kernel, or the kernels of a stack, one layer after the other. All values must be finite."""
    quantize = FORMATS[format].quantize

    def one(kernel: jax.Array) -> dict[str, jax.Array]:
        return quantize(kernel.astype(jnp.float32).T)

    return one(kernel) if kernel.ndim == 2 else jax.lax.map(one, kernel)


@partial(jax.jit, static_argnames=("format", "inputs"))
def dequantized(format: str, parts: Mapping[str, jax.Array], inputs: int) -> Float[Array, "*L I O"]:
    """Return the float32 kernel, or the kernels of a stack, one layer after the other."""
    dequantize = FORMATS[format].dequantize

    def one(parts: Mapping[str, jax.Array]) -> jax.Array:
        return dequantize(dict(parts), inputs).T

    return one(parts) if parts["codes"].ndim == 2 else jax.lax.map(one, dict(parts))
