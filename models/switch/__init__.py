"""Switch Transformers (Fedus et al. 2022, https://arxiv.org/abs/2101.03961): T5 with experts, one for each token, in some of the layers."""

from t2t.models.switch.presets import PRESETS, switch

__all__ = ["PRESETS", "switch"]
