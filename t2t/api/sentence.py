"""Sentence encoders of `sentence-transformers`: an encoder with the pooling of its vectors."""

from __future__ import annotations

import dataclasses

from t2t.errors import UserError
from t2t.export.huggingface import Source
from t2t.export.sentence import Sentence, Vectors
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
        normalize=config.vector_normalize,
        max_length=config.max_length if longest is None else longest,
    )


def sentence_encoder(model: Source, sentence: Sentence) -> Source:
    """Return the model with the pooling of its vectors. The longest text has at most as many tokens as the model has positions.

    Raises UserError if it is not an encoder, or if its vectors have another size.
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
    return dataclasses.replace(model, config=config, model=config.build())
