"""T5 (Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer") and T5 v1.1.

Encoder-decoders with relative positions, RMS norm before each sublayer and no biases. Version 1.0 has ReLU feed-forward layers and uses one embedding table
for inputs, targets and logits. Version 1.1 has gated GELU feed-forward layers (Shazeer 2020) and a separate head. It was pretrained without dropout: turn
dropout on to fine-tune.
"""

from t2t.models.t5.presets import PRESETS, encoder_of, t5, v1_0, v1_1

__all__ = ["PRESETS", "encoder_of", "t5", "v1_0", "v1_1"]
