"""MPNet (Song et al. 2020, https://arxiv.org/abs/2004.09297): a BERT whose attention logits have relative positions too. Sentence encoders start from it."""

from t2t.models.mpnet.presets import PRESETS, mpnet, sized

__all__ = ["PRESETS", "mpnet", "sized"]
