"""Qwen 2, 2.5 (Yang et al. 2024) and 3 (Yang et al. 2025), and its mixtures of experts: decoders like LLaMA.

Qwen 2 and 2.5 have biases on queries, keys and values. Qwen 3 normalizes each head's queries and keys instead. Qwen3-Next has Gated DeltaNet in three of four
layers.
"""

from t2t.models.qwen.next_presets import PRESETS as _NEXT
from t2t.models.qwen.presets import PRESETS as _ATTENTION
from t2t.models.qwen.presets import sized

PRESETS = {**_ATTENTION, **_NEXT}

__all__ = ["PRESETS", "sized"]
