"""RetNet (Sun et al. 2023, https://arxiv.org/abs/2307.08621): decoders with retention in place of attention, which decode with a state of constant size."""

from t2t.models.retnet.presets import PRESETS, retnet

__all__ = ["PRESETS", "retnet"]
