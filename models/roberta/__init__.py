"""RoBERTa (Liu et al. 2019, https://arxiv.org/abs/1907.11692): a BERT without next-sentence prediction. XLM-RoBERTa (Conneau et al. 2020,
https://arxiv.org/abs/1911.02116) is the same model for 100 languages. XLM-RoBERTa-XL and -XXL (Goyal et al. 2021, https://arxiv.org/abs/2105.00572) have norms
before the sublayers.
"""

from t2t.models.roberta.presets import PRESETS, roberta, sized

__all__ = ["PRESETS", "roberta", "sized"]
