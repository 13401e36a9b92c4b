"""RWKV: decoders whose layers are recurrent, with a state of constant size.

RWKV-4 is of Peng et al. 2023 (https://arxiv.org/abs/2305.13048), RWKV-7 of Peng et al. 2025 (https://arxiv.org/abs/2503.14456).
"""

from t2t.models.rwkv.presets import PRESETS, rwkv4, rwkv7

__all__ = ["PRESETS", "rwkv4", "rwkv7"]
