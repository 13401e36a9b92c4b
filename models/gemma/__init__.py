"""Gemma 2 (Gemma Team 2024b) and the text models of Gemma 3 (Gemma Team 2025).

Decoders with rotary positions, RMS norms before and after each sublayer that multiply by 1 + scale, gated GELU feed-forward layers, embeddings times
sqrt(d_model), fewer key and value heads than query heads, and a pattern of layers with a sliding window and layers without one. Gemma 2 bounds its attention
logits and final logits. Gemma 3 normalizes queries and keys instead, and its two kinds of layers have different rotary frequencies.
"""

from t2t.models.gemma.presets import PRESETS, gemma, gemma2, gemma3, sized

__all__ = ["PRESETS", "gemma", "gemma2", "gemma3", "sized"]
