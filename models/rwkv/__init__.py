"""RWKV-4 (Peng et al. 2023, https://arxiv.org/abs/2305.13048): decoders whose layers are recurrent, with a state of constant size."""

from t2t.models.rwkv.presets import PRESETS, rwkv4

__all__ = ["PRESETS", "rwkv4"]
