"""The encoder of a model alone, without a head, for vectors of texts."""

from __future__ import annotations

import dataclasses
from typing import Any

from t2t.errors import UserError
from t2t.models import EncoderConfig, EncoderDecoderConfig
from t2t.models.electra import ElectraConfig
from t2t.models.t5 import encoder_of
from t2t.nn.model import ModelConfig

_PARAMETERS = ("embeddings/**", "encoder/**")


def encoder_parameters(config: ModelConfig) -> tuple[str, ...]:
    """Return the patterns of the parameters that a model's encoder has in the model and alone."""
    layer = isinstance(config, EncoderConfig) and config.vector_dense is not None
    return (*_PARAMETERS, "vector_layer/**") if layer else _PARAMETERS


def encoder_alone(config: ModelConfig, *, where: str) -> EncoderConfig:
    """Return the encoder of a model without its head. Its parameters are those of `encoder_parameters`.

    where: what asks for it, for errors. Raises UserError if the model has no encoder with parameters of its own.
    """
    if isinstance(config, ElectraConfig):
        config = config.discriminator()
    if isinstance(config, EncoderConfig):
        # Without the layers of a masked-LM head, which would have no gradient. Narrow embeddings cannot give logits without them.
        narrow = config.embedding_size is not None
        bare: dict[str, Any] = {"head_transform": narrow, "head_bias": narrow, "tied": True}
        no_answer: dict[str, Any] = {
            "pooler": False,
            "reference_label": False,
            "pooling": "first",
            "answer_transform": False,
            "kept_pooler": False,
            "kept_pair_classifier": False,
        }
        return dataclasses.replace(config, head="tokens", labels=(), **no_answer, **bare)
    if not isinstance(config, EncoderDecoderConfig):
        raise UserError(f"{where}: the run's model is of kind {config.kind} and has no encoder.")
    refused = [
        name
        for name in ("shared", "embedding_norm", "separate_positions", "separate_embeddings")
        if getattr(config, name)
    ]
    if refused or config.encoder.d_model != config.decoder.d_model:
        raise UserError(
            f"{where}: the run's model has {', '.join(f'model.{name}' for name in refused) or 'stacks of different widths'}; its encoder"
            " cannot be used alone. Supported are models like T5."
        )
    return encoder_of(config)
