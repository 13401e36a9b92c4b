"""Feed-forward networks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
from flax import nnx
from jaxtyping import Array, Float

from t2t.nn.dropout import Keys, dropout
from t2t.nn.initializers import Initializer
from t2t.nn.linear import Linear
from t2t.nn.quantized import Quantization

Activation = Literal["relu", "gelu", "gelu_tanh", "silu"]
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "silu": jax.nn.silu,
}


class MLP(nnx.Module):
    """`down(activation(up(x)))`, or `down(activation(gate(x)) * up(x))` where gated (Shazeer 2020; T5 v1.1, LLaMA).

    dropout: rate on the inner activations, as T5 has it.
    quantization: of the matrix products.
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
    ) -> None:
        self.activation: str = activation
        self.dropout = dropout
        linear = partial(Linear, bias=biases, quantization=quantization)
        self.up = linear(size, inner, ("embed", "mlp"), init=init)
        self.gate = linear(size, inner, ("embed", "mlp"), init=init) if gated else None
        self.down = linear(inner, size, ("mlp", "embed"), init=out_init)

    def __call__(self, x: Float[Array, "*B D"], keys: Keys) -> Float[Array, "*B D"]:
        """Apply to each position on its own."""
        activation = ACTIVATIONS[self.activation]
        if self.gate is None:
            inner = activation(self.up(x))
        else:
            inner = activation(self.gate(x)) * self.up(x)
        return self.down(dropout(inner, self.dropout, keys.next()))
