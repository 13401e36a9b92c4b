"""Encoders: every token sees every other of its segment; a head predicts tokens in place, labels or a span (BERT)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from t2t.errors import UserError
from t2t.limits import FewOrZero
from t2t.models.answer_heads import AnswerHead, LabelHead, PoolerActivation, SpanHead
from t2t.models.config import StackConfig, TransformerConfig, both_ways, one_of
from t2t.models.functional import FunctionalModel, Network
from t2t.models.inputs import Embeddings, Head
from t2t.models.transformer import Layers, Stack
from t2t.nn.aux import Aux
from t2t.nn.dropout import Keys
from t2t.nn.linear import Linear
from t2t.nn.mixers import Context
from t2t.nn.mlp import ACTIVATIONS, Activation
from t2t.nn.model import Cache, Kind, Output
from t2t.nn.norms import norm
from t2t.types import Batch, Tokens


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(TransformerConfig):
    """An encoder with a head.

    Args:
        encoder: its stack of blocks.
        head: what it predicts: "tokens" in place (the head of masked language modelling), the "label" of each text, the "tags" of its
            words, or a "span" of it.
        labels: texts of the classes of a label or of tags, in the order of their ids.
        pooler: of the head for a label: dense and an activation first, as BERT has it.
        pooler_activation: "tanh" (BERT) or "relu" (DistilBERT).
        types: number of token types (BERT: 2); 0 for none.
        embedding_norm: normalise the sum of the embeddings.
        head_transform: of the head for words: dense, activation and norm before the logits (BERT's masked-LM head).
        head_activation: of that head; None for the encoder's own.
        head_bias: of that head: one for each word on the logits.
    """

    kind: ClassVar[Kind] = "encoder"
    encoder: StackConfig
    types: FewOrZero = 0
    embedding_norm: bool = False
    head_transform: bool = False
    head_activation: Activation | None = None
    head_bias: bool = False
    head: Output = "tokens"
    labels: tuple[str, ...] = ()
    pooler: bool = False
    pooler_activation: PoolerActivation = "tanh"

    def __post_init__(self) -> None:
        super().__post_init__()
        both_ways("encoder", self.encoder)
        if self.head_activation is not None:
            one_of("head_activation", self.head_activation, Activation)
        one_of("head", self.head, Output)
        if self.head in ("label", "tags") and (len(self.labels) < 2 or len(set(self.labels)) < len(self.labels)):
            raise UserError(
                f"model.labels is {self.labels}; model.head {self.head!r} needs two or more different ones (--model.labels A B), those of the task."
            )
        if self.labels and self.head not in ("label", "tags"):
            raise UserError(f"model.labels is {self.labels}, but model.head is {self.head!r}. Nearest: label, tags.")
        one_of("pooler_activation", self.pooler_activation, PoolerActivation)
        if self.pooler and self.head != "label":
            raise UserError(f"model.pooler is True, but model.head is {self.head!r}. Nearest: label.")

    @property
    def stacks(self) -> tuple[StackConfig, ...]:
        """The encoder's stack."""
        return (self.encoder,)

    @property
    def output(self) -> Output:
        """What the head scores."""
        return self.head

    @property
    def answer_places(self) -> int | None:
        """The first place for a label, the first two for a span's ends."""
        return {"label": 1, "span": 2}.get(self.head)

    def num_outputs(self, length: int) -> int:
        """Return the number of words, of labels, or of the places of a row."""
        if self.head == "tokens":
            return self.vocab_size
        return length if self.head == "span" else len(self.labels)

    def build(self) -> FunctionalModel:
        """Return the model."""
        return FunctionalModel(self, EncoderNetwork(self))


class Transform(nnx.Module):
    """Dense, activation, norm: what BERT's masked-LM head does before the logits."""

    def __init__(self, config: EncoderConfig, size: int) -> None:
        stack = config.encoder
        self.activation: str = config.head_activation or stack.activation
        self.dense = Linear(stack.d_model, size, ("embed", None), bias=True, init=stack.kernel_init(stack.d_model))
        self.norm = norm(stack.norm, size, stack.norm_epsilon)

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """Apply to each position on its own."""
        return self.norm(ACTIVATIONS[self.activation](self.dense(x)))


def _answer_head(config: EncoderConfig, stack: StackConfig) -> AnswerHead:
    if config.head == "span":
        return SpanHead(stack)
    return LabelHead(
        stack, len(config.labels), pooler=config.pooler, rate=config.dropout, activation=config.pooler_activation
    )


class EncoderNetwork(Network):
    """Embeddings, a stack, a head."""

    def __init__(self, config: EncoderConfig) -> None:
        stack = config.encoder
        self.embeddings = Embeddings(config, stack, types=config.types, normed=config.embedding_norm)
        self.encoder = Stack(config, stack, bidirectional=True)
        words = config.head == "tokens"
        size = (config.embedding_size or stack.d_model) if config.head_transform else stack.d_model
        self.transform = Transform(config, size) if words and config.head_transform else None
        self.lm_head = Head(config, stack, size=size, bias=config.head_bias) if words else None
        self.answer = None if words else _answer_head(config, stack)

    def forward(self, batch: Batch, keys: Keys) -> tuple[Float[Array, "B L D"], Aux]:
        """Run the stack on `batch.encoder`."""
        assert batch.encoder is not None, "an encoder needs batch.encoder"
        return encode(self.embeddings, self.encoder, batch, keys)

    def head(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Return float32 logits: of words or labels, or two of each position as a span's first and last."""
        if self.answer is not None:
            return self.answer(hidden, Keys(None))
        assert self.lm_head is not None, "a head for words"
        x = hidden if self.transform is None else self.transform(hidden)
        return self.lm_head(x, self.embeddings)

    def scored(self, batch: Batch, keys: Keys) -> tuple[Float[Array, "B L V"], Aux]:
        """Return float32 logits aligned with `batch.targets`, and the terms that layers report."""
        hidden, aux = self.forward(batch, keys)
        if self.answer is None:
            return self.head(hidden), aux
        assert batch.encoder is not None, "an encoder needs batch.encoder"
        return self.answer.logits(hidden, batch.encoder, keys), aux

    def start(self, batch: Batch, length: int) -> tuple[Float[Array, "B V"], Cache]:
        """Raise UserError: encoders do not generate."""
        raise UserError(
            "an encoder does not generate text token by token; use fill-mask, or a decoder or encoder_decoder"
        )

    def step(self, cache: Cache, ids: Int[Array, "B"], layers: Layers = None) -> tuple[Float[Array, "B V"], Cache]:
        """Raise UserError: encoders do not generate."""
        return self.start(Batch(None, None, ids, ids), 0)


def encode(
    embeddings: Callable[[Tokens, Keys], Float[Array, "B L D"]], stack: Stack, batch: Batch, keys: Keys
) -> tuple[Float[Array, "B L D"], Aux]:
    """Embed the encoder's tokens and run its stack; also return the terms that its layers report."""
    tokens = batch.encoder
    assert tokens is not None, "the batch has no encoder tokens"
    return stack(embeddings(tokens, keys), encoder_context(tokens, keys))


def encoder_context(tokens: Tokens, keys: Keys) -> Context:
    """Return what the layers of an encoder know of its tokens."""
    return Context(segments=tokens.segments, positions=jnp.asarray(tokens.positions), bidirectional=True, keys=keys)
