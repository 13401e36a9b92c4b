"""Encoders: every token sees all tokens of its segment. A head predicts tokens in place, labels or a span (BERT)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from t2t.errors import UserError
from t2t.limits import FewOrZero, Length, Width
from t2t.models.answer_heads import AnswerHead, KeptPooler, LabelHead, PoolerActivation, Pooling, SpanHead, averaged
from t2t.models.checks import check_even_buckets, one_of
from t2t.models.config import StackConfig
from t2t.models.functional import FunctionalModel, Network
from t2t.models.inputs import Embeddings, Head
from t2t.models.transformer import Layers, Stack
from t2t.models.transformer_config import TransformerConfig
from t2t.models.vector_layer import VectorActivation, VectorLayer
from t2t.nn.aux import Aux
from t2t.nn.capabilities import OF_TEXT
from t2t.nn.dropout import Keys
from t2t.nn.linear import Linear
from t2t.nn.mixers import Context
from t2t.nn.mlp import ACTIVATIONS, Activation
from t2t.nn.model import Cache, Kind, Output
from t2t.nn.norms import norm
from t2t.nn.pooling import Pooling as VectorPooling
from t2t.types import Batch, Tokens


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(TransformerConfig):
    """An encoder with a head.

    Args:
        encoder: the stack of layers.
        head: what the model predicts: "tokens" in place (masked language modeling), the "label" of each text, any number of "labels" of each text (multi-label
            classification), "numbers" of each text (regression), the "tags" of its words, or a "span" of it. "vectors" means no head: the model computes vectors of texts.
        labels: names of the classes for "label", "labels" or "tags", in the order of their ids, or of the "numbers". A single number needs no name.
        pooler: add a dense layer and an activation before the head for a "label", "labels" or "numbers", as in BERT, or at each token before the "tags" head
            (ELECTRA's discriminator).
        pooler_activation: activation of the pooler: "tanh" (BERT), "relu" (DistilBERT) or "gelu" (ELECTRA).
        reference_label: the first label's score is 0 and has no parameters. With two labels, the head computes one logit (ELECTRA's discriminator).
        kept_pooler: keep the parameters of a pooler with the head "tokens" or "vectors", which neither uses nor trains them (an import of a published model).
            Training from this run with `pooler` starts with them. Other heads ignore this field and the next one.
        kept_pair_classifier: keep the classifier of pairs of texts of BERT's or ALBERT's pretraining in the same way, with the head "tokens". It needs
            `kept_pooler`.
        pooling: where the head for a "label", "labels" or "numbers" takes a text's scores from: its "first" token (BERT), the "mean" of its tokens (ModernBERT),
            or "mean_scores", the mean of the scores of its tokens (EuroBERT).
        vector_pooling: how the vector of a text is computed from the outputs at its n tokens: their "mean", the output at the "first" or "last" token, the "max" of
            each dimension, their "weighted_mean" with weights 1, ..., n, or their sum divided by the square root of n ("mean_sqrt").
        vector_dense: number of dimensions of a dense layer after the pooling (LaBSE, Sentence-T5). None means no such layer.
        vector_dense_activation: activation of that layer: "tanh" or "identity".
        vector_dense_bias: add a bias to that layer.
        vector_normalize: divide the vector of a text by its Euclidean norm.
        vector_max_length: longest text that has a vector, in tokens with special tokens. None means as many as the model has positions.
        types: number of token types (BERT: 2); 0 means none.
        embedding_norm: normalize the sum of the embeddings.
        embedding_norm_wide: project narrower embeddings (`embedding_size`) before this norm, without a bias (DeBERTa). Otherwise they are projected after it,
            with a bias (ALBERT, ELECTRA).
        head_transform: add a dense layer, an activation and a norm before the logits of the "tokens" head (BERT's masked-LM head).
        head_activation: activation of that transform. None means the activation of the encoder.
        transform_bias: add a bias to the dense layer of that transform.
        answer_transform: apply that transform before the scores of labels, tags and spans as well (ModernBERT).
        head_bias: add a bias for each vocabulary entry to the logits of the "tokens" head.
    """

    kind: ClassVar[Kind] = "encoder"
    encoder: StackConfig
    types: FewOrZero = 0
    embedding_norm: bool = False
    embedding_norm_wide: bool = False
    head_transform: bool = False
    head_activation: Activation | None = None
    transform_bias: bool = True
    answer_transform: bool = False
    head_bias: bool = False
    head: Output = "tokens"
    labels: tuple[str, ...] = ()
    pooler: bool = False
    pooler_activation: PoolerActivation = "tanh"
    reference_label: bool = False
    kept_pooler: bool = False
    kept_pair_classifier: bool = False
    pooling: Pooling = "first"
    vector_pooling: VectorPooling = "mean"
    vector_dense: Width | None = None
    vector_dense_activation: VectorActivation = "tanh"
    vector_dense_bias: bool = True
    vector_normalize: bool = False
    vector_max_length: Length | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_even_buckets("encoder", self.encoder)
        if self.embedding_norm_wide and (not self.embedding_norm or self.embedding_size is None):
            raise UserError(
                f"model.embedding_norm_wide is True, but model.embedding_norm is {self.embedding_norm} and model.embedding_size is {self.embedding_size};"
                " it needs both. Nearest: False."
            )
        if self.head_activation is not None:
            one_of("head_activation", self.head_activation, Activation)
        one_of("head", self.head, Output)
        self._check_labels()
        one_of("pooler_activation", self.pooler_activation, PoolerActivation)
        for name, heads in (("pooler", (*OF_TEXT, "tags")), ("reference_label", ("label", "tags"))):
            if getattr(self, name) and self.head not in heads:
                raise UserError(f"model.{name} is True, but model.head is {self.head!r}. Nearest: {', '.join(heads)}.")
        if self.kept_pair_classifier and not self.kept_pooler:
            raise UserError(
                "model.kept_pair_classifier is True, but model.kept_pooler is False; the classifier reads the pooler's output. Nearest: False."
            )
        one_of("pooling", self.pooling, Pooling)
        if self.pooling != "first" and self.head not in OF_TEXT:
            raise UserError(f"model.pooling is {self.pooling!r}, but model.head is {self.head!r}. Nearest: first.")
        one_of("vector_pooling", self.vector_pooling, VectorPooling)
        one_of("vector_dense_activation", self.vector_dense_activation, VectorActivation)

    def _check_labels(self) -> None:
        """Raise UserError if the labels do not fit the head."""
        least = {"label": 2, "tags": 2, "labels": 1, "numbers": 0}.get(self.head)
        if least is None:
            if self.labels:
                raise UserError(
                    f"model.labels is {self.labels}, but model.head is {self.head!r}. Nearest: label, labels, numbers, tags."
                )
        elif len(self.labels) < least or len(set(self.labels)) < len(self.labels):
            count = {0: "different", 1: "one or more different", 2: "two or more different"}[least]
            raise UserError(
                f"model.labels is {self.labels}; model.head {self.head!r} needs {count} labels, those of the task (--model.labels A B)."
            )

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
        """Number of first positions that may have a target: 1 for labels and numbers of a text, 2 for the ends of a span; None if any position may."""
        return 1 if self.head in OF_TEXT else {"span": 2}.get(self.head)

    @property
    def num_labels(self) -> int:
        """Number of labels, tags or numbers that the head scores."""
        return len(self.labels) or int(self.head == "numbers")

    def num_outputs(self, length: int) -> int:
        """Return the number of logits at each position: vocabulary size, number of labels or numbers, or positions of a row."""
        if self.head == "tokens":
            return self.vocab_size
        if self.head == "vectors":
            return self.encoder.d_model
        return length if self.head == "span" else self.num_labels

    def build(self) -> FunctionalModel:
        """Return the model."""
        return FunctionalModel(self, EncoderNetwork(self))


class Transform(nnx.Module):
    """Dense layer, activation and norm, which BERT's masked-LM head applies before the logits."""

    def __init__(self, config: EncoderConfig, size: int) -> None:
        stack = config.encoder
        self.activation: str = config.head_activation or stack.activation
        init = stack.kernel_init(stack.d_model)
        self.dense = Linear(stack.d_model, size, ("embed", None), bias=config.transform_bias, init=init)
        self.norm = norm(stack.norm, size, stack.norm_epsilon)

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """Apply to each position independently."""
        return self.norm(ACTIVATIONS[self.activation](self.dense(x)))


def _answer_head(config: EncoderConfig, stack: StackConfig) -> AnswerHead:
    if config.head == "span":
        return SpanHead(stack)
    return LabelHead(
        stack,
        config.num_labels,
        pooler=config.pooler,
        rate=config.dropout,
        activation=config.pooler_activation,
        reference=config.reference_label,
    )


def _vector_layer(config: EncoderConfig, stack: StackConfig) -> VectorLayer | None:
    if config.vector_dense is None:
        return None
    return VectorLayer(
        stack, config.vector_dense, activation=config.vector_dense_activation, bias=config.vector_dense_bias
    )


class EncoderNetwork(Network):
    """Embeddings, a stack and a head."""

    def __init__(self, config: EncoderConfig) -> None:
        stack = config.encoder
        self.embeddings = Embeddings(
            config, stack, types=config.types, normed=config.embedding_norm, wide_norm=config.embedding_norm_wide
        )
        self.encoder = Stack(config, stack, bidirectional=True)
        words, headless = config.head == "tokens", config.head == "vectors"
        size = (config.embedding_size or stack.d_model) if config.head_transform else stack.d_model
        transformed = config.head_transform if words else config.answer_transform and not headless
        self.transform = Transform(config, size if words else stack.d_model) if transformed else None
        self.pooling: Pooling = config.pooling
        self.lm_head = Head(config, stack, size=size, bias=config.head_bias) if words else None
        kept = KeptPooler(stack) if config.kept_pooler else None
        self.answer: AnswerHead | KeptPooler | None = kept if words or headless else _answer_head(config, stack)
        init = stack.kernel_init(stack.d_model)
        # Not in the path of the label head: its labels are others.
        self.pair_classifier = (
            Linear(stack.d_model, 2, ("embed", None), bias=True, init=init, trainable=False)
            if words and config.kept_pair_classifier
            else None
        )
        self.vector_layer = _vector_layer(config, stack)

    def forward(self, batch: Batch, keys: Keys) -> tuple[Float[Array, "B L D"], Aux]:
        """Run the stack on `batch.encoder`."""
        assert batch.encoder is not None, "an encoder needs batch.encoder"
        return encode(self.embeddings, self.encoder, batch, keys)

    def head(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Return float32 logits: of the vocabulary, of labels, or of each position as the first and last token of a span. Numbers are their own logits.

        Without a head, return the outputs of the stack.
        """
        x = hidden if self.transform is None else self.transform(hidden)
        if isinstance(self.answer, AnswerHead):
            return self.answer(x, Keys(None))
        return x.astype(jnp.float32) if self.lm_head is None else self.lm_head(x, self.embeddings)

    def scored(self, batch: Batch, keys: Keys) -> tuple[Float[Array, "B L V"], Aux]:
        """Return float32 logits aligned with `batch.targets`, and the auxiliary terms that layers report."""
        hidden, aux = self.forward(batch, keys)
        if not isinstance(self.answer, AnswerHead):
            return self.head(hidden), aux
        assert batch.encoder is not None, "an encoder needs batch.encoder"
        segments = jnp.asarray(batch.encoder.segments)
        x = averaged(hidden, segments).astype(hidden.dtype) if self.pooling == "mean" else hidden
        x = x if self.transform is None else self.transform(x)
        logits = self.answer.logits(x, batch.encoder, keys)
        return (averaged(logits, segments) if self.pooling == "mean_scores" else logits), aux

    def vector(self, pooled: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Return the vector of a text, made from its pooled outputs."""
        return pooled if self.vector_layer is None else self.vector_layer(pooled)

    def start(self, batch: Batch, length: int) -> tuple[Float[Array, "B V"], Cache]:
        """Raise UserError: encoders cannot generate."""
        raise UserError(
            "an encoder does not generate text token by token; use fill-mask, or a model of kind decoder or encoder_decoder"
        )

    def step(self, cache: Cache, ids: Int[Array, "B"], layers: Layers = None) -> tuple[Float[Array, "B V"], Cache]:
        """Raise UserError: encoders cannot generate."""
        return self.start(Batch(None, None, ids, ids), 0)


def encode(
    embeddings: Callable[[Tokens, Keys], Float[Array, "B L D"]], stack: Stack, batch: Batch, keys: Keys
) -> tuple[Float[Array, "B L D"], Aux]:
    """Embed the encoder's tokens and run its stack. Also return the auxiliary terms that its layers report."""
    tokens = batch.encoder
    assert tokens is not None, "the batch has no encoder tokens"
    return stack(embeddings(tokens, keys), encoder_context(tokens, keys))


def encoder_context(tokens: Tokens, keys: Keys) -> Context:
    """Return the context of an encoder's layers for its tokens."""
    return Context(segments=tokens.segments, positions=jnp.asarray(tokens.positions), bidirectional=True, keys=keys)
