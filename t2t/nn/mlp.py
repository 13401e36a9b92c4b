"""Feed-forward layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from t2t.limits import NormEpsilon, Width
from t2t.nn.aux import Aux
from t2t.nn.dropout import dropout
from t2t.nn.feed_forward import FeedForward, FeedForwardConfig
from t2t.nn.initializers import Initializer
from t2t.nn.linear import Linear
from t2t.nn.mixers import BuildOptions, Context
from t2t.nn.norms import LayerNorm, NormKind, RMSNorm, norm
from t2t.nn.quantized import Quantization

Activation = Literal["relu", "gelu", "gelu_tanh", "quick_gelu", "silu", "relu2"]
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "silu": jax.nn.silu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
}


class MLP(FeedForward):
    """`down(activation(up(x)))`, or `down(activation(gate(x)) * up(x))` if `gated` (Shazeer 2020; T5 v1.1, LLaMA).

    dropout: dropout rate of the inner activations, as in T5.
    quantization: type of the matrix products.
    norm: a norm of the inner layer, before the last product; None if there is none.
    """

    def __init__(
        self,
        size: int,
        inner: int,
        *,
        activation: Activation,
        gated: bool,
        biases: bool,
        dropout: float,
        init: Initializer,
        out_init: Initializer,
        quantization: Quantization = "none",
        norm: RMSNorm | LayerNorm | None = None,
    ) -> None:
        self.activation: str = activation
        self.dropout = dropout
        linear = partial(Linear, bias=biases, quantization=quantization)
        self.up = linear(size, inner, ("embed", "mlp"), init=init)
        self.gate = linear(size, inner, ("embed", "mlp"), init=init) if gated else None
        self.down = linear(inner, size, ("mlp", "embed"), init=out_init)
        self.sub_norm = norm

    def __call__(self, x: Float[Array, "*B D"], context: Context) -> tuple[Float[Array, "*B D"], Aux]:
        """Apply to each position independently."""
        activation = ACTIVATIONS[self.activation]
        if self.gate is None:
            inner = activation(self.up(x))
        else:
            inner = activation(self.gate(x)) * self.up(x)
        inner = inner if self.sub_norm is None else self.sub_norm(inner)
        return self.down(dropout(inner, self.dropout, context.keys.next())), {}


@dataclass(frozen=True, kw_only=True)
class MLPConfig(FeedForwardConfig):
    """An MLP with one inner layer.

    Args:
        inner: width of the inner layer.
        activation: activation function. "gelu" is exact, "gelu_tanh" and "quick_gelu", x sigmoid(1.702 x), approximate it (Hendrycks & Gimpel 2016);
            "relu2" is the square of ReLU.
        gated: multiply two branches.
        biases: add a bias to each matrix product.
        sub_norm: kind of a norm of the inner layer, before the last product (BitNet). None means that there is none.
        norm_epsilon: epsilon of that norm.
    """

    name: ClassVar[str] = "mlp"
    inner: Width
    activation: Activation = "gelu_tanh"
    gated: bool = False
    biases: bool = False
    sub_norm: NormKind | None = None
    norm_epsilon: NormEpsilon = 1e-6

    def build(self, options: BuildOptions) -> MLP:
        """Return the layer."""
        return MLP(
            options.width,
            self.inner,
            activation=self.activation,
            gated=self.gated,
            biases=self.biases,
            dropout=options.dropout,
            init=options.kernel_init(options.width),
            out_init=options.kernel_init(self.inner, residual=True),
            quantization=options.quantization,
            norm=None if self.sub_norm is None else norm(self.sub_norm, self.inner, self.norm_epsilon, axis="mlp"),
        )
