"""OLMo 2 (OLMo team 2024, https://arxiv.org/abs/2501.00656) and OLMo 3 (OLMo team 2025, https://arxiv.org/abs/2512.13961).

Decoders like LLaMA. The outputs of attention and of the feed-forward layers are normalized, not their inputs, and queries and keys have a norm over all heads.
In OLMo 3, three of four layers have a window, and only the fourth has positions that are extended for long texts.
"""

from t2t.models.olmo.presets import PRESETS, olmo2, olmo3

__all__ = ["PRESETS", "olmo2", "olmo3"]
