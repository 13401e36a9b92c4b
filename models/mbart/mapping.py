"""Conversion of mBART and mBART-50 to and from `transformers` (MBartForConditionalGeneration)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from t2t.models.bart.mapping import Bart


class MBart(Bart):
    """mBART: BART with a norm before each sublayer and after each stack."""

    name: ClassVar[str] = "mBART"
    model_types: ClassVar[tuple[str, ...]] = ("mbart",)
    architecture: ClassVar[str] = "MBartForConditionalGeneration"
    fixed: ClassVar[Mapping[str, Any]] = {**Bart.fixed, "norm_place": "pre", "final_norm": True}
