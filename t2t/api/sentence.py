"""Sentence encoders of `sentence-transformers`: an encoder with the pooling of its vectors."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

from t2t.errors import UserError
from t2t.export.huggingface import Source
from t2t.export.sentence import Sentence, Vectors
from t2t.export.sentence_dense import Dense, WithDense, dense_tensors
from t2t.models import EncoderConfig
from t2t.nn.model import ModelConfig


def vectors_of(config: ModelConfig, *, where: str) -> Vectors:
    """Return how an encoder computes vectors. Raises UserError for another kind of model. where: the run, for errors."""
    if not isinstance(config, EncoderConfig):
        raise UserError(
            f"--format sentence-transformers: {where} is a model of kind {config.kind} ({type(config).__name__}); only encoders return vectors."
        )
    longest = config.vector_max_length
    return Vectors(
        size=config.encoder.d_model,
        pooling=config.vector_pooling,
        dense=None
        if config.vector_dense is None
        else Dense(size=config.vector_dense, activation=config.vector_dense_activation, bias=config.vector_dense_bias),
        normalize=config.vector_normalize,
        max_length=config.max_length if longest is None else longest,
    )


@contextlib.contextmanager
def sentence_encoder(model: Source, sentence: Sentence) -> Iterator[Source]:
    """Yield the model with the pooling of its vectors and the layer after it. The longest text has at most as many tokens as the model has positions.

    Raises UserError if it is not an encoder, if its vectors have another size, or if the weights of the layer do not fit.
    """
    config, vectors = model.config, sentence.vectors
    if not isinstance(config, EncoderConfig):
        raise UserError(
            f"{sentence.directory}: {model.family.name} is a model of kind {config.kind}; vectors of texts are supported only for encoders"
        )
    if vectors.size != config.encoder.d_model:
        raise UserError(
            f"{sentence.directory}: the pooling is of {vectors.size} dimensions, but the model's outputs have {config.encoder.d_model}"
        )
    limits = [limit for limit in (vectors.max_length, config.max_length) if limit is not None]
    config = dataclasses.replace(
        config,
        vector_pooling=vectors.pooling,
        vector_normalize=vectors.normalize,
        vector_max_length=None if vectors.max_length is None else min(limits),
    )
    if vectors.dense is None or sentence.dense is None:
        yield dataclasses.replace(model, config=config, model=config.build())
        return
    config = dataclasses.replace(
        config,
        vector_dense=vectors.dense.size,
        vector_dense_activation=vectors.dense.activation,
        vector_dense_bias=vectors.dense.bias,
    )
    built = config.build()
    layer = dense_tensors(built)
    with WithDense(model.files, layer, sentence.dense) as files:
        yield dataclasses.replace(
            model,
            files=files,
            config=config,
            model=built,
            wanted=[*model.wanted, *layer],
            names={**model.names, **{tensor.name: [tensor.name] for tensor in layer}},
        )
