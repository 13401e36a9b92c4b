"""BERT (Devlin et al. 2019): encoders with learned positions, token types, norms after the sublayers and a masked-LM head.

The masked-LM head (dense layer, GELU, layer norm, logits tied to the embeddings, a bias for each vocabulary entry) is included. The pooler and the classifier
of next-sentence prediction are not, because masked-LM training never uses them; an imported model keeps them (`EncoderConfig.kept_pooler`).
"""

from t2t.models.bert.presets import PRESETS, bert, sized

__all__ = ["PRESETS", "bert", "sized"]
