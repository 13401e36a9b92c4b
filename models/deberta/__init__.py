"""DeBERTa v2 and v3 (He et al. 2020, https://arxiv.org/abs/2006.03654; 2021, https://arxiv.org/abs/2111.09543): BERTs with disentangled attention.

A token is not told its position: attention compares contents with each other, and contents with relative positions. Version 3 was trained like ELECTRA, with a
generator and a discriminator; its published models are the discriminators.
"""

from t2t.models.deberta.presets import PRESETS, deberta, sized

__all__ = ["PRESETS", "deberta", "sized"]
