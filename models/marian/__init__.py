"""Marian (Junczys-Dowmunt et al. 2018, "Marian: Fast Neural Machine Translation in C++"), as in OPUS-MT (Tiedemann and Thottingal 2020).

Encoder-decoders with sinusoidal positions, SiLU, biases, a layer norm after each sublayer, and a bias for each vocabulary entry of the logits.
"""

from t2t.models.marian.presets import PRESETS, marian, sized

__all__ = ["PRESETS", "marian", "sized"]
