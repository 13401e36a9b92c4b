"""The dense layer after the pooling of a text's vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from t2t.models.config import StackConfig
from t2t.nn.linear import Linear

VectorActivation = Literal["tanh", "identity"]
_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"tanh": jnp.tanh, "identity": lambda x: x}


class VectorLayer(nnx.Module):
    """A dense layer and its activation, from the pooled outputs of an encoder to the vector of a text.

    LaBSE (Feng et al. 2022, https://arxiv.org/abs/2007.01852) has tanh and a bias; Sentence-T5 (Ni et al. 2022, https://arxiv.org/abs/2108.08877) has neither.
    """

    def __init__(self, stack: StackConfig, size: int, *, activation: VectorActivation, bias: bool) -> None:
        self.activation: str = activation
        self.dense = Linear(stack.d_model, size, ("embed", None), bias=bias, init=stack.kernel_init(stack.d_model))

    def __call__(self, pooled: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Return float32 vectors."""
        return _ACTIVATIONS[self.activation](self.dense(pooled.astype(jnp.float32)))
