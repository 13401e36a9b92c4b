"""Small models of each kind with random noise in every parameter, created without compilation."""

import jax
import jax.numpy as jnp
import numpy as np

from t2t.models.config import StackConfig
from t2t.models.decoder import DecoderConfig
from t2t.models.encoder import EncoderConfig
from t2t.models.t5 import t5
from t2t.nn.model import ParamSpec
from t2t.vocabularies import Bytes

VOCABULARY = Bytes(extra_ids=5)
SIZE = 272  # rounded up, like the vocabularies of real models
STACK = StackConfig(num_layers=2, d_model=16, num_heads=2, d_ff=32, max_length=20)


def make(name):
    config = {
        "t5": lambda: t5(num_layers=2, d_model=16, num_heads=2, d_ff=32, vocab_size=SIZE, attention="chunked"),
        "gpt": lambda: DecoderConfig(decoder=STACK, vocab_size=SIZE),
        "prefix": lambda: DecoderConfig(decoder=STACK, vocab_size=SIZE, mask="prefix"),
        "bert": lambda: EncoderConfig(encoder=STACK, vocab_size=SIZE, types=2),
    }[name]()
    model = config.build()
    rng = np.random.default_rng(0)

    def noise(spec):
        return jnp.asarray(rng.normal(size=spec.shape) * 0.3 + (0.0 if spec.decay else 1.0), spec.dtype)

    return model, jax.tree.map(noise, model.specs, is_leaf=lambda leaf: isinstance(leaf, ParamSpec))
