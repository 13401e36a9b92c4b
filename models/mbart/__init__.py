"""mBART (Liu et al. 2020, "Multilingual Denoising Pre-training for Neural Machine Translation"): BART with a layer norm before each sublayer and after each stack."""

from t2t.models.mbart.presets import PRESETS, mbart, sized

__all__ = ["PRESETS", "mbart", "sized"]
