"""LLaMA 1 to 3 (Touvron et al. 2023; Grattafiori et al. 2024), SmolLM2 (Allal et al. 2025) and Mistral (Jiang et al. 2023).

Decoders with rotary positions, RMS norm before each sublayer, gated SiLU feed-forward layers (SwiGLU), no biases, and optionally fewer key and value heads
than query heads. Mistral 7B has a sliding window of 4,096 tokens in each layer.
"""

from t2t.models.llama.presets import PRESETS, llama, sized

__all__ = ["PRESETS", "llama", "sized"]
