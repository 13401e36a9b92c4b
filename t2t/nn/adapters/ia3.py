"""Adapters that scale activations (IA3, Liu et al. 2022)."""

from __future__ import annotations

from jaxtyping import Array, Float

from t2t.nn.initializers import ONES
from t2t.nn.linear import Linear, LinearAdapter
from t2t.nn.parameters import parameter


class IA3(LinearAdapter):
    """A trained factor for each output of a linear layer, or for each input (Liu et al. 2022, section 3.3).

    The factors start as one. The paper scales the outputs of keys and values, and the inputs of the last kernel of feed-forward layers.

    inputs, outputs: sizes of the kernel.
    axes:       logical axes of the kernel.
    scale_inputs: scale the inputs.
    """

    def __init__(self, inputs: int, outputs: int, axes: tuple[str | None, str | None], *, scale_inputs: bool) -> None:
        self.scale_inputs = scale_inputs
        size, axis = (inputs, axes[0]) if scale_inputs else (outputs, axes[1])
        self.factor = parameter((size,), (axis,), ONES, decay=False)

    def __call__(self, x: Float[Array, "*B I"], linear: Linear) -> Float[Array, "*B O"]:
        """Scale the inputs, or the outputs with their bias."""
        factor = self.factor[...].astype(x.dtype)
        if self.scale_inputs:
            return linear.biased(linear.product(x * factor))
        return linear.biased(linear.product(x)) * factor

    def merged(
        self, kernel: Float[Array, "*L I O"], bias: Float[Array, "*L O"] | None
    ) -> tuple[Float[Array, "*L I O"], Float[Array, "*L O"] | None]:
        """Return the scaled kernel and bias."""
        factor = self.factor[...]
        if self.scale_inputs:
            return kernel * factor[..., :, None], bias
        return kernel * factor[..., None, :], None if bias is None else bias * factor
