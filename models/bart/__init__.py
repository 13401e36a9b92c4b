"""BART (Lewis et al. 2020, "BART: Denoising Sequence-to-Sequence Pre-training for Natural Language Generation, Translation, and Comprehension").

Encoder-decoders with GELU, biases, and a layer norm after each sublayer. Each stack has its own learned positions and its own norm of the embeddings; the table
of tokens is shared with the head.
"""

from t2t.models.bart.presets import PRESETS, bart, sized

__all__ = ["PRESETS", "bart", "sized"]
