"""T5Gemma (Zhang et al. 2025, https://arxiv.org/abs/2504.06225): encoder-decoders whose stacks are those of Gemma 2.

Encoder and decoder may have different widths, and each has its own token embeddings. Every second layer has a window, in the encoder too.
"""

from t2t.models.t5gemma.from_decoders import encoder_decoder_of
from t2t.models.t5gemma.presets import PRESETS, sized, t5gemma

__all__ = ["PRESETS", "encoder_decoder_of", "sized", "t5gemma"]
