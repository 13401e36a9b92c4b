"""ELECTRA (Clark et al. 2020, https://arxiv.org/abs/2003.10555): a small generator fills masks, an encoder tells for each token whether it was replaced.

Both are trained together and share their embeddings. What is wanted of it in the end is the encoder, the discriminator: `ElectraConfig.discriminator()`
is its configuration, and its parameters are those under `embeddings/` and `encoder/`.
"""

from t2t.models.electra.config import ElectraConfig
from t2t.models.electra.objective import ReplacedTokenDetection
from t2t.models.electra.presets import PRESETS, electra, sized

__all__ = ["PRESETS", "ElectraConfig", "ReplacedTokenDetection", "electra", "sized"]
