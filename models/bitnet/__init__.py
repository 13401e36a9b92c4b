"""BitNet b1.58 (Ma et al. 2024, https://arxiv.org/abs/2402.17764; 2B4T, https://arxiv.org/abs/2504.12285): decoders with ternary weights."""

from t2t.models.bitnet.presets import PRESETS, bitnet

__all__ = ["PRESETS", "bitnet"]
