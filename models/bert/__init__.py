"""BERT (Devlin et al. 2019): encoders with learned positions, token types, norms after the sublayers and a masked-LM head.

The head (dense, GELU, layer norm, logits tied to the embeddings, a bias for each word) is included; the pooler and the classifier of next-sentence prediction,
which masked-LM training never uses, are not.
"""

from t2t.models.bert.presets import PRESETS, bert, sized

__all__ = ["PRESETS", "bert", "sized"]
