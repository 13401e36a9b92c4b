"""ModernBERT (Warner et al. 2024, https://arxiv.org/abs/2412.13663): an encoder with rotary positions whose layers see a window, or the whole text.

Every third layer, from the first one on, sees the whole text. Layers have gated GELU, norms before the sublayers and no biases. The embeddings are normalized,
so the first attention layer has no norm.
"""

from t2t.models.modernbert.presets import PRESETS, modernbert, sized

__all__ = ["PRESETS", "modernbert", "sized"]
