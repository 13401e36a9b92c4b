"""LongT5 (Guo et al. 2022, "LongT5: Efficient Text-To-Text Transformer for Long Sequences").

T5 1.1 whose encoder has a window ("local"), and may also see the sums of all blocks of tokens ("tglobal", transient-global attention). The decoder is T5's.
"""

from t2t.models.longt5.presets import PRESETS, longt5, sized

__all__ = ["PRESETS", "longt5", "sized"]
