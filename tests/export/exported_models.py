"""Small models of each kind, with noise in every parameter."""

import jax

from t2t.models.config import StackConfig
from t2t.models.decoder import DecoderConfig
from t2t.models.encoder import EncoderConfig
from t2t.models.t5 import t5
from t2t.vocabularies import Bytes

VOCABULARY = Bytes(extra_ids=5)
SIZE = 272  # rounded up, as models' vocabularies are
STACK = StackConfig(layers=2, embed=16, heads=2, mlp=32, max_length=20)


def make(name):
    config = {
        "t5": lambda: t5(layers=2, embed=16, heads=2, mlp=32, vocab_size=SIZE, attention="chunked"),
        "gpt": lambda: DecoderConfig(decoder=STACK, vocab_size=SIZE),
        "prefix": lambda: DecoderConfig(decoder=STACK, vocab_size=SIZE, mask="prefix"),
        "bert": lambda: EncoderConfig(encoder=STACK, vocab_size=SIZE, types=2),
    }[name]()
    model = config.build()

    @jax.jit
    def params():
        leaves, tree = jax.tree.flatten(model.init(jax.random.key(0)))
        keys = jax.random.split(jax.random.key(1), len(leaves))
        noisy = [x + 0.3 * jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
        return jax.tree.unflatten(tree, noisy)

    return model, params()
