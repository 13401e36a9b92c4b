"""NeoBERT (Le Breton et al. 2025, https://arxiv.org/abs/2502.19587): a BERT with the layers of LLaMA, of the width of BERT base and more than twice as deep."""

from t2t.models.neobert.presets import PRESETS, neobert, sized

__all__ = ["PRESETS", "neobert", "sized"]
