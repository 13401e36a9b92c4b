"""Mamba (Gu and Dao 2023, https://arxiv.org/abs/2312.00752) and Mamba-2 (Dao and Gu 2024, https://arxiv.org/abs/2405.21060): decoders of state-space layers.

Each layer is a norm and a mixer. There are no positions, no attention and no feed-forward layers.
"""

from t2t.models.mamba.presets import PRESETS, mamba, mamba2

__all__ = ["PRESETS", "mamba", "mamba2"]
