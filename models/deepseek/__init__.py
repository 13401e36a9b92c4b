"""DeepSeek-V3 (DeepSeek-AI 2024, https://arxiv.org/abs/2412.19437).

Decoders with latent attention, and with experts whose load biases balance; the first layers have no experts.
"""

from t2t.models.deepseek.presets import PRESETS, deepseek

__all__ = ["PRESETS", "deepseek"]
