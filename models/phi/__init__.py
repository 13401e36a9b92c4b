"""Phi-3 (Abdin et al. 2024, https://arxiv.org/abs/2404.14219) and Phi-4 (https://arxiv.org/abs/2412.08905).

Decoders like LLaMA. Phi-4-mini rotates three quarters of each head, and its positions are extended for long texts.
"""

from t2t.models.phi.presets import PRESETS, phi, sized

__all__ = ["PRESETS", "phi", "sized"]
