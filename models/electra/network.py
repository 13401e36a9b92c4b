"""Generator and discriminator with shared embeddings."""

from __future__ import annotations

from typing import cast

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from t2t.errors import UserError
from t2t.models.electra.config import ElectraConfig
from t2t.models.encoder import Transform, encode, encoder_context
from t2t.models.functional import FunctionalModel, Network
from t2t.models.inputs import Embeddings, Head
from t2t.models.transformer import Layers, Stack
from t2t.nn.aux import Aux
from t2t.nn.dropout import Keys
from t2t.nn.linear import Linear
from t2t.nn.mlp import ACTIVATIONS
from t2t.nn.model import Cache
from t2t.sharding import constrain
from t2t.types import Batch, Params, Tokens


class Generator(nnx.Module):
    """The masked language model: projects the given embeddings to its width, then applies a stack and a head."""

    def __init__(self, config: ElectraConfig) -> None:
        stack, width, alone = config.generator, config.embedding_width, config.generator_alone()
        init = stack.kernel_init(width)
        self.widen = (
            None if stack.d_model == width else Linear(width, stack.d_model, (None, "embed"), bias=True, init=init)
        )
        self.stack = Stack(config, stack, bidirectional=True)
        self.transform = Transform(alone, width)
        self.lm_head = Head(alone, stack, size=width, bias=True)

    def forward(self, embeddings: Embeddings, tokens: Tokens, keys: Keys) -> tuple[Float[Array, "B L G"], Aux]:
        """Run the stack. Raises UserError if rows are longer than the number of learned positions."""
        x = embeddings.narrow_rows(tokens, keys)
        x = constrain(x if self.widen is None else self.widen(x), ("batch", "length", None))
        return self.stack(x, encoder_context(tokens, keys))

    def head(self, hidden: Float[Array, "*B G"], embeddings: Embeddings) -> Float[Array, "*B V"]:
        """Return float32 logits."""
        return self.lm_head(self.transform(hidden), embeddings)


class Detector(nnx.Module):
    """The discriminator's head: dense layer, activation and one logit per token, which is above 0 if the token seems replaced."""

    def __init__(self, config: ElectraConfig) -> None:
        stack = config.encoder
        init = stack.kernel_init(stack.d_model)
        self.activation: str = stack.activation
        self.dense = Linear(stack.d_model, stack.d_model, ("embed", None), bias=True, init=init)
        self.out = Linear(stack.d_model, 1, ("embed", None), bias=True, init=init)

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B"]:
        """Return float32 logits."""
        return self.out(ACTIVATIONS[self.activation](self.dense(x)))[..., 0].astype(jnp.float32)


class ElectraNetwork(Network):
    """Embeddings, the discriminator's stack and head, and the generator. The generator predicts tokens."""

    def __init__(self, config: ElectraConfig) -> None:
        self.embeddings = Embeddings(config, config.encoder, types=config.types, normed=True)
        self.encoder = Stack(config, config.encoder, bidirectional=True)
        self.detector = Detector(config)
        self.generator = Generator(config)

    def forward(self, batch: Batch, keys: Keys) -> tuple[Float[Array, "B L G"], Aux]:
        """Run the generator on `batch.encoder`."""
        assert batch.encoder is not None, "an encoder needs batch.encoder"
        return self.generator.forward(self.embeddings, batch.encoder, keys)

    def head(self, hidden: Float[Array, "*B G"]) -> Float[Array, "*B V"]:
        """Return the generator's float32 logits."""
        return self.generator.head(hidden, self.embeddings)

    def detect(self, batch: Batch, keys: Keys) -> tuple[Float[Array, "B L"], Aux]:
        """Run the discriminator on `batch.encoder` and return for each token the logit that it was replaced."""
        hidden, aux = encode(self.embeddings, self.encoder, batch, keys)
        return self.detector(hidden), aux

    def start(self, batch: Batch, length: int) -> tuple[Float[Array, "B V"], Cache]:
        """Raise UserError: encoders cannot generate."""
        raise UserError("ELECTRA does not generate text token by token; its generator fills masks")

    def step(self, cache: Cache, ids: Int[Array, "B"], layers: Layers = None) -> tuple[Float[Array, "B V"], Cache]:
        """Raise UserError: encoders cannot generate."""
        return self.start(Batch(None, None, ids, ids), 0)


class Electra(FunctionalModel):
    """ELECTRA model. `logits` are the generator's, so evaluation reports the masked-LM loss. `ReplacedTokenDetection` trains both parts."""

    config: ElectraConfig

    def __init__(self, config: ElectraConfig) -> None:
        super().__init__(config, ElectraNetwork(config))

    def detect(self, params: Params, batch: Batch, *, dropout_key: jax.Array | None = None) -> Float[Array, "B L"]:
        """Return the discriminator's float32 logits on `batch.encoder`. A logit above 0 means that the token seems replaced."""
        return self.network(params).detect(batch, Keys(dropout_key))[0]

    def network(self, params: Params) -> ElectraNetwork:
        """Return the network with these parameters, for objectives that run its parts."""
        return cast(ElectraNetwork, self._definition.bind(params))
