"""GPT-NeoX (Black et al. 2022, https://arxiv.org/abs/2204.06745) and Pythia (Biderman et al. 2023, https://arxiv.org/abs/2304.01373).

Decoders with rotary positions for a share of each head, whose feed-forward layers read the same input as attention.
"""

from t2t.models.neox.presets import PRESETS, neox, sized

__all__ = ["PRESETS", "neox", "sized"]
