"""The encoder-decoder that is adapted from decoder-only models (Zhang et al. 2025, https://arxiv.org/abs/2504.06225, https://arxiv.org/abs/2512.14856)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from t2t.errors import UserError
from t2t.models.config import LayerOptions, StackConfig
from t2t.models.decoder import DecoderConfig
from t2t.models.encoder_decoder import EncoderDecoderConfig
from t2t.models.transformer_config import TransformerConfig


def encoder_decoder_of(encoder: DecoderConfig, decoder: DecoderConfig | None = None) -> EncoderDecoderConfig:
    """Return the encoder-decoder with the layers of decoder-only models, with bidirectional attention in the encoder and cross attention in the decoder.

    A window of w tokens before a token becomes one of w tokens on either side in the encoder. Both sides share the embeddings; those of two models are
    separate. Gemma 2 becomes a T5Gemma, with separate embeddings. Gemma 3 becomes a T5Gemma 2, with merged attention instead of cross attention, and with a
    window of w tokens in all in the encoder. Options that are not those of a stack are the decoder's.

    encoder: model that gives the encoder.
    decoder: model that gives the decoder; None means `encoder`.

    Raises UserError if the two models cannot be combined.
    """
    both = encoder if decoder is None else decoder
    for name in ("vocab_size", "embedding_size", "embedding_norm"):
        one, other = getattr(encoder, name), getattr(both, name)
        if one != other:
            raise UserError(
                f"model.{name} is {one} in the model of the encoder and {other} in that of the decoder; both sides have the same."
            )
    stack = both.decoder
    gemma = stack.norm == "rms_plus_one"
    separate = decoder is not None or (gemma and not stack.qk_norm)
    merged = gemma and not separate
    shared: dict[str, Any] = {field.name: getattr(both, field.name) for field in dataclasses.fields(TransformerConfig)}
    return EncoderDecoderConfig(
        **shared,
        encoder=dataclasses.replace(encoder.decoder, exact_window=True)
        if merged
        else _with_windows(encoder.decoder, lambda window: 2 * window),
        decoder=stack,
        embedding_norm=both.embedding_norm,
        separate_embeddings=separate,
        merged_attention=merged,
        encoder_embedding_scale=encoder.embedding_scale if separate else None,
    )


def _with_windows(stack: StackConfig, change: Callable[[int], int]) -> StackConfig:
    """Return the stack with other windows."""

    def changed(layers: tuple[LayerOptions, ...]) -> tuple[LayerOptions, ...]:
        return tuple(
            dataclasses.replace(layer, window=None if layer.window is None else change(layer.window))
            for layer in layers
        )

    window = None if stack.window is None else change(stack.window)
    return dataclasses.replace(stack, window=window, pattern=changed(stack.pattern), first=changed(stack.first))
