"""SmolLM3 (Bakouch et al. 2025): a decoder like LLaMA in which every fourth layer has no positions."""

from t2t.models.smollm3.presets import PRESETS, smollm3

__all__ = ["PRESETS", "smollm3"]
