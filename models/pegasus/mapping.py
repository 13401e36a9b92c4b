"""Conversion of PEGASUS to and from `transformers` (PegasusForConditionalGeneration)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from t2t.models.bart.mapping import SINUSOIDS, Bart
from t2t.models.bart.presets import SINUSOIDAL


class Pegasus(Bart):
    """PEGASUS: BART with sinusoidal positions, and a norm before each sublayer and after each stack."""

    name: ClassVar[str] = "PEGASUS"
    model_types: ClassVar[tuple[str, ...]] = ("pegasus",)
    left_out: ClassVar[Mapping[str, str]] = SINUSOIDS
    architecture: ClassVar[str] = "PegasusForConditionalGeneration"
    fixed: ClassVar[Mapping[str, Any]] = {**SINUSOIDAL, "norm_place": "pre", "final_norm": True}
