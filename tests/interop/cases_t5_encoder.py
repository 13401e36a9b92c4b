"""Small configurations of T5's encoder alone."""

from __future__ import annotations

from typing import Any

from tests.interop.case import T5, Case, case


def _encoder(family: str, name: str, **options: Any) -> Case:
    return case(family, name, f"{family.upper()}Config", f"{family.upper()}EncoderModel", T5, **options)


CASES = (
    _encoder("T5", "encoder, gated, as published", feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    _encoder("umT5", "encoder, ReLU, epsilon", feed_forward_proj="relu", layer_norm_epsilon=1e-2),
)
