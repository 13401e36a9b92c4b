"""ELECTRA (Clark et al. 2020, https://arxiv.org/abs/2003.10555): a small generator replaces masked tokens, an encoder detects the replaced tokens.

Both are trained together and share their embeddings. The result of the training is the encoder, the discriminator. `ElectraConfig.discriminator()` returns
its configuration; its parameters are those under `embeddings/` and `encoder/`.
"""

from t2t.models.electra.config import ElectraConfig
from t2t.models.electra.objective import ReplacedTokenDetection
from t2t.models.electra.presets import PRESETS, electra, sized

__all__ = ["PRESETS", "ElectraConfig", "ReplacedTokenDetection", "electra", "sized"]
