"""The text models of T5Gemma 2 (Zhang et al. 2025, https://arxiv.org/abs/2512.14856): encoder-decoders whose stacks are those of Gemma 3.

Encoder, decoder and head have the same token embeddings. The decoder attends to its own tokens and to the encoder's output in one softmax.
"""

from t2t.models.t5gemma2.presets import PRESETS, sized

__all__ = ["PRESETS", "sized"]
