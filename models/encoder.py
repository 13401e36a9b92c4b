"""Encoders: every token sees every other of its segment; a head predicts tokens in place (BERT)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from t2t.errors import UserError
from t2t.models.bound import Bound, Network
from t2t.models.config import StackConfig, TransformerConfig, no_window, one_of
from t2t.models.inputs import Embeddings, Head
from t2t.models.transformer import Stack
from t2t.nn.dropout import Keys
from t2t.nn.linear import Linear
from t2t.nn.masks import Mask
from t2t.nn.mixers import Context
from t2t.nn.mlp import ACTIVATIONS, Activation
from t2t.nn.model import Cache, Kind
from t2t.nn.norms import norm
from t2t.types import Batch


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(TransformerConfig):
    """An encoder with a head that predicts tokens in place.

    types:          number of token types (BERT: 2); 0 for none.
    embedding_norm: normalise the sum of the embeddings.
    head_transform: dense, activation and norm before the logits (BERT's masked-LM head).
    head_activation: of that head; None for the encoder's own.
    head_bias:      one for each word on the logits.
    """

    kind: ClassVar[Kind] = "encoder"
    encoder: StackConfig
    types: int = 0
    embedding_norm: bool = False
    head_transform: bool = False
    head_activation: Activation | None = None
    head_bias: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        no_window("encoder", self.encoder)
        if self.head_activation is not None:
            one_of("head_activation", self.head_activation, Activation)

    @property
    def stacks(self) -> tuple[StackConfig, ...]:
        """The encoder's stack."""
        return (self.encoder,)

    def build(self) -> Bound:
        """Return the model."""
        return Bound(self, EncoderNetwork(self))


class Transform(nnx.Module):
    """Dense, activation, norm: what BERT's masked-LM head does before the logits."""

    def __init__(self, config: EncoderConfig, size: int) -> None:
        stack = config.encoder
        self.activation: str = config.head_activation or stack.activation
        self.dense = Linear(stack.embed, size, ("embed", None), bias=True, init=stack.kernel_init(stack.embed))
        self.norm = norm(stack.norm, size, stack.norm_epsilon)

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """Apply to each position on its own."""
        return self.norm(ACTIVATIONS[self.activation](self.dense(x)))


class EncoderNetwork(Network):
    """Embeddings, a stack, a head."""

    def __init__(self, config: EncoderConfig) -> None:
        stack = config.encoder
        self.embeddings = Embeddings(config, stack, types=config.types, normed=config.embedding_norm)
        self.encoder = Stack(config, stack, bidirectional=True)
        size = (config.embedding_size or stack.embed) if config.head_transform else stack.embed
        self.transform = Transform(config, size) if config.head_transform else None
        self.lm_head = Head(config, stack, size=size, bias=config.head_bias)

    def hidden(self, batch: Batch, keys: Keys) -> Float[Array, "B L D"]:
        """Run the stack on `batch.encoder`."""
        assert batch.encoder is not None, "an encoder needs batch.encoder"
        return encode(self.embeddings, self.encoder, batch, keys)

    def head(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Return float32 logits."""
        x = hidden if self.transform is None else self.transform(hidden)
        return self.lm_head(x, self.embeddings)

    def start(self, batch: Batch, length: int) -> tuple[Float[Array, "B V"], Cache]:
        """Raise UserError: encoders do not generate."""
        raise UserError(
            "an encoder does not generate text token by token; use fill-mask, or a decoder or encoder_decoder"
        )

    def step(self, cache: Cache, ids: Int[Array, "B"]) -> tuple[Float[Array, "B V"], Cache]:
        """Raise UserError: encoders do not generate."""
        return self.start(Batch(None, None, ids, ids), 0)


def encode(embeddings: Embeddings, stack: Stack, batch: Batch, keys: Keys) -> Float[Array, "B L D"]:
    """Embed the encoder's tokens and run its stack."""
    tokens = batch.encoder
    assert tokens is not None, "the batch has no encoder tokens"
    mask = Mask(queries=tokens.segments, keys=tokens.segments)
    return stack(embeddings(tokens, keys), Context(mask=mask, positions=jnp.asarray(tokens.positions), keys=keys))
