"""Generator and discriminator over one set of embeddings, and the loss that trains both."""

from __future__ import annotations

import dataclasses
from typing import cast

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from t2t.errors import UserError
from t2t.losses import Loss, LossSums, cross_entropy
from t2t.models.bound import Bound, Network
from t2t.models.electra.config import ElectraConfig
from t2t.models.encoder import Transform, encode
from t2t.models.inputs import Embeddings, Head
from t2t.models.transformer import Layers, Stack
from t2t.nn.dropout import Keys
from t2t.nn.linear import Linear
from t2t.nn.masks import Mask
from t2t.nn.mixers import Context
from t2t.nn.mlp import ACTIVATIONS
from t2t.nn.model import Cache
from t2t.nn.noise import sample
from t2t.sharding import constrain
from t2t.types import Batch, Params, Tokens


class Generator(nnx.Module):
    """The masked language model: embeddings of another, brought to its own width, a stack, a head."""

    def __init__(self, config: ElectraConfig) -> None:
        stack, width, alone = config.generator, config.embedding_width, config.generator_alone()
        init = stack.kernel_init(width)
        self.widen = None if stack.embed == width else Linear(width, stack.embed, (None, "embed"), bias=True, init=init)
        self.stack = Stack(config, stack, bidirectional=True)
        self.transform = Transform(alone, width)
        self.lm_head = Head(alone, stack, size=width, bias=True)

    def hidden(self, embeddings: Embeddings, tokens: Tokens, keys: Keys) -> Float[Array, "B L G"]:
        """Run the stack. Raises UserError where rows are longer than the learned positions."""
        embeddings.check(tokens.ids.shape[1])
        positions, types = jnp.asarray(tokens.positions), None if tokens.types is None else jnp.asarray(tokens.types)
        x = embeddings.narrow(jnp.asarray(tokens.ids), positions, types, keys)
        x = constrain(x if self.widen is None else self.widen(x), ("batch", "length", None))
        mask = Mask(queries=tokens.segments, keys=tokens.segments, self_attention=True)
        return self.stack(x, Context(mask=mask, positions=positions, keys=keys))

    def head(self, hidden: Float[Array, "*B G"], embeddings: Embeddings) -> Float[Array, "*B V"]:
        """Return float32 logits."""
        return self.lm_head(self.transform(hidden), embeddings)


class Detector(nnx.Module):
    """The discriminator's head: dense, activation, and one logit a token, above 0 where it seems replaced."""

    def __init__(self, config: ElectraConfig) -> None:
        stack = config.encoder
        init = stack.kernel_init(stack.embed)
        self.activation: str = stack.activation
        self.dense = Linear(stack.embed, stack.embed, ("embed", None), bias=True, init=init)
        self.out = Linear(stack.embed, 1, ("embed", None), bias=True, init=init)

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B"]:
        """Return float32 logits."""
        return self.out(ACTIVATIONS[self.activation](self.dense(x)))[..., 0].astype(jnp.float32)


class ElectraNetwork(Network):
    """Embeddings, the discriminator's stack and head, the generator. What predicts tokens is the generator."""

    def __init__(self, config: ElectraConfig) -> None:
        self.embeddings = Embeddings(config, config.encoder, types=config.types, normed=True)
        self.encoder = Stack(config, config.encoder, bidirectional=True)
        self.detector = Detector(config)
        self.generator = Generator(config)

    def hidden(self, batch: Batch, keys: Keys) -> Float[Array, "B L G"]:
        """Run the generator on `batch.encoder`."""
        assert batch.encoder is not None, "an encoder needs batch.encoder"
        return self.generator.hidden(self.embeddings, batch.encoder, keys)

    def head(self, hidden: Float[Array, "*B G"]) -> Float[Array, "*B V"]:
        """Return the generator's float32 logits."""
        return self.generator.head(hidden, self.embeddings)

    def detect(self, batch: Batch, keys: Keys) -> Float[Array, "B L"]:
        """Run the discriminator on `batch.encoder`; the logits of each token's having been replaced."""
        return self.detector(encode(self.embeddings, self.encoder, batch, keys))

    def start(self, batch: Batch, length: int) -> tuple[Float[Array, "B V"], Cache]:
        """Raise UserError: encoders do not generate."""
        raise UserError("an ELECTRA does not generate text token by token; its generator fills masks")

    def step(self, cache: Cache, ids: Int[Array, "B"], layers: Layers = None) -> tuple[Float[Array, "B V"], Cache]:
        """Raise UserError: encoders do not generate."""
        return self.start(Batch(None, None, ids, ids), 0)


class Electra(Bound):
    """ELECTRA as a model: `logits` are the generator's, so that evaluation tells the masked-LM loss; `losses` trains both."""

    config: ElectraConfig

    def __init__(self, config: ElectraConfig) -> None:
        super().__init__(config, ElectraNetwork(config))

    def detect(self, params: Params, batch: Batch, *, dropout_key: jax.Array | None = None) -> Float[Array, "B L"]:
        """Return the discriminator's float32 logits on `batch.encoder`: above 0 where it takes a token for replaced."""
        return self._network(params).detect(batch, Keys(dropout_key))

    def losses(self, params: Params, batch: Batch, loss: Loss, *, dropout_key: jax.Array | None = None) -> LossSums:
        """Return the sums of both losses (section 2 of the paper).

        `loss`, `correct` and `weight` are the generator's, of masked language modelling; `objective` is its objective, to which `loss` applies, plus the
        discriminator's binary cross-entropy over all tokens that are not padding, weighted as `ElectraConfig` says. Each token to be predicted is
        replaced by a draw from the generator, which no gradient passes; one that happens to be the right one counts as real. Without a key the draws
        are those of a fixed one.

        extra: "discriminator_loss" in nats a token, "discriminator_accuracy", "replaced" (share of the tokens) and "replaced_found" (share of these that
        the discriminator takes for replaced).
        """
        network, keys = self._network(params), Keys(dropout_key)
        drawn_by = keys.next()
        logits = network.head(network.hidden(batch, keys))
        sums = cross_entropy(logits, batch.targets, batch.weights, loss)
        drawn = sample(jax.random.key(0) if drawn_by is None else drawn_by, logits)
        corrupted, replaced = replace_predicted(batch, drawn)
        return self._with_discriminator(sums, network.detect(corrupted, keys), corrupted, replaced)

    def _network(self, params: Params) -> ElectraNetwork:
        return cast(ElectraNetwork, self._definition.bind(params))

    def _with_discriminator(
        self, sums: LossSums, scores: Float[Array, "B L"], corrupted: Batch, replaced: Bool[Array, "B L"]
    ) -> LossSums:
        assert corrupted.encoder is not None
        real = (jnp.asarray(corrupted.encoder.segments) > 0).astype(jnp.float32)
        wrong = replaced.astype(jnp.float32) * real
        binary = jnp.sum((jax.nn.softplus(scores) - replaced * scores) * real)
        called = scores > 0
        tokens, changed = jnp.sum(real), jnp.sum(wrong)
        weight = self.config.discriminator_weight * self.config.masked_share
        return dataclasses.replace(
            sums,
            objective=sums.objective + weight * binary,
            extra={
                "discriminator_loss": (binary, tokens),
                "discriminator_accuracy": (jnp.sum((called == replaced) * real), tokens),
                "replaced": (changed, tokens),
                "replaced_found": (jnp.sum(called * wrong), changed),
            },
        )


def replace_predicted(batch: Batch, drawn: Int[Array, "B L"]) -> tuple[Batch, Bool[Array, "B L"]]:
    """Return the batch with the drawn ids wherever there is something to predict, and where these are not the targets."""
    tokens = batch.encoder
    assert tokens is not None, "an encoder needs batch.encoder"
    chosen = jnp.asarray(batch.weights) > 0
    ids = jnp.where(chosen, drawn, jnp.asarray(tokens.ids))
    return (
        dataclasses.replace(batch, encoder=dataclasses.replace(tokens, ids=ids)),
        chosen & (drawn != jnp.asarray(batch.targets)),
    )
