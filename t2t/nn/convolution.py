"""A convolution over the neighbours of each token, within its example (He et al. 2021, "DeBERTa" version 2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from t2t.errors import UserError, nearest
from t2t.limits import Configuration, Range
from t2t.nn.dropout import Keys, dropout
from t2t.nn.linear import Linear
from t2t.nn.mixers import BuildOptions
from t2t.nn.mlp import ACTIVATIONS
from t2t.types import Array as AnyArray

ConvolutionActivation = Literal["relu", "gelu", "gelu_tanh", "quick_gelu", "silu", "tanh"]
_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {**ACTIVATIONS, "tanh": jnp.tanh}


@dataclass(frozen=True, kw_only=True)
class ConvolutionConfig(Configuration):
    """A convolution of the input of an encoder's layer, which is added to the layer's output and normalized.

    Args:
        size: number of tokens that a window holds, an odd number: the token itself and size // 2 tokens on either side.
        activation: activation of the convolution's output.
    """

    size: Annotated[int, Range(1, 255)] = 3
    activation: ConvolutionActivation = "gelu"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size % 2 == 0:
            raise UserError(f"model.convolution.size is {self.size}; it must be odd. Nearest: {self.size + 1}.")
        if self.activation not in get_args(ConvolutionActivation):
            raise UserError(
                f"unknown activation {self.activation!r} (model.convolution.activation).{nearest(self.activation, get_args(ConvolutionActivation))}"
            )

    def build(self, options: BuildOptions, *, dropout: float) -> Convolution:
        """Return the layer. dropout: dropout rate of its output. Raises UserError outside of encoders: it reads later tokens."""
        if not options.bidirectional:
            raise UserError(
                "a convolution (LayerOptions.convolution) reads later tokens, which only the layers of an encoder may see"
            )
        return Convolution(self, options, dropout)


class Convolution(nnx.Module):
    """A linear layer on the concatenated vectors of a window of tokens, then dropout and an activation. Tokens of other examples count as zeros.

    The rows of its kernel are those of the first token of the window, then those of the second, and so on.
    """

    def __init__(self, config: ConvolutionConfig, options: BuildOptions, dropout: float) -> None:
        self.config, self.dropout = config, dropout
        inputs = config.size * options.width
        init = options.kernel_init(inputs)
        self.window = Linear(
            inputs, options.width, ("embed", None), bias=True, init=init, quantization=options.quantization
        )

    def __call__(self, x: Float[Array, "B L D"], segments: Int[AnyArray, "B L"], keys: Keys) -> Float[Array, "B L D"]:
        """Apply to whole rows."""
        half, length = self.config.size // 2, x.shape[1]
        padded = jnp.pad(x, ((0, 0), (half, half), (0, 0)))
        owners = jnp.pad(jnp.asarray(segments), ((0, 0), (half, half)))
        neighbours = [
            jnp.where((owners[:, at : at + length] == segments)[..., None], padded[:, at : at + length], 0)
            for at in range(self.config.size)
        ]
        out = self.window(jnp.concatenate(neighbours, axis=-1))
        return _ACTIVATIONS[self.config.activation](dropout(out, self.dropout, keys.next()))
