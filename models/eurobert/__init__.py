"""EuroBERT (Boizard et al. 2025, https://arxiv.org/abs/2503.05500): the layers of LLaMA in an encoder."""

from t2t.models.eurobert.presets import PRESETS, eurobert, sized

__all__ = ["PRESETS", "eurobert", "sized"]
