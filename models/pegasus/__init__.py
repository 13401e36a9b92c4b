"""PEGASUS (Zhang et al. 2020, "PEGASUS: Pre-training with Extracted Gap-sentences for Abstractive Summarization").

Encoder-decoders with sinusoidal positions, ReLU, biases, and a layer norm before each sublayer and after each stack.
"""

from t2t.models.pegasus.presets import PRESETS, pegasus, sized

__all__ = ["PRESETS", "pegasus", "sized"]
