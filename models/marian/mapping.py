"""Conversion of Marian to and from `transformers` (MarianMTModel)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from t2t.export.family import Options
from t2t.models.bart.mapping import SINUSOIDS, Bart
from t2t.models.bart.presets import SINUSOIDAL


class Marian(Bart):
    """Marian: BART with sinusoidal positions and without a norm of the embeddings."""

    name: ClassVar[str] = "Marian"
    model_types: ClassVar[tuple[str, ...]] = ("marian",)
    left_out: ClassVar[Mapping[str, str]] = SINUSOIDS
    architecture: ClassVar[str] = "MarianMTModel"
    fixed: ClassVar[Mapping[str, Any]] = {**SINUSOIDAL, "norm_place": "post", "final_norm": False}

    def check(self, options: Options) -> None:
        """Raise UserError for other values of options than BART's, and if encoder and decoder have separate vocabularies."""
        super().check(options)
        why = "encoder and decoder share one table of tokens"
        options.must("share_encoder_decoder_embeddings", True, why=why)
        options.must("decoder_vocab_size", options.size("vocab_size"), why=why)
