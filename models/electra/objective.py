"""Training objective of ELECTRA: the generator fills masks, the discriminator detects the tokens that it replaced."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, ClassVar, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from t2t.limits import Range, Rate, Weight
from t2t.losses import LossSums, cross_entropy
from t2t.models.electra.network import Electra
from t2t.nn.aux import added, with_aux
from t2t.nn.dropout import Keys
from t2t.nn.model import Capability, Model
from t2t.nn.noise import sample
from t2t.objectives import Objective
from t2t.types import Batch, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplacedTokenDetection(Objective):
    """Sum of the generator's masked language modeling loss and the discriminator's replaced token detection loss (Clark et al. 2020, section 2).

    Args:
        discriminator_weight: weight of the discriminator's mean loss relative to the generator's (lambda in section 2 of the paper).
        masked_share: share of the tokens that the task masks. Losses are sums, because only sums add up over parts of a batch; this share converts the weight
            of means into a weight of sums. If a task masks more or fewer tokens, the effective weight is proportionally larger or smaller.
        z_loss: weight of the generator's z-loss, log(Z)^2, which keeps the softmax normalizer near 1.
        label_smoothing: probability mass of the generator's targets that is spread evenly over the vocabulary.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({"detect"})
    discriminator_weight: Weight = 50.0
    masked_share: Annotated[float, Range(1e-6, 1.0, typical=0.15)] = 0.15
    z_loss: Annotated[float, Range(0.0, 10.0)] = 0.0
    label_smoothing: Rate = 0.0

    def loss(self, model: Model, params: Params, batch: Batch, dropout_key: jax.Array | None = None) -> LossSums:
        """Return the sums of both losses.

        `loss`, `correct` and `weight` are those of the generator's masked language modeling. `objective` is the generator's objective plus the weighted binary
        cross-entropy of the discriminator over all tokens that are not padding. Each token to predict is replaced by a sample from the generator; no gradient
        passes through it. A sample that equals the original token counts as real. Without a dropout key, sampling uses a fixed key.

        extra: "discriminator_loss" in nats per token, "discriminator_accuracy", "replaced" (share of all tokens) and "replaced_found" (share of the replaced
        tokens that the discriminator detects).
        """
        network, keys = cast(Electra, model).network(params), Keys(dropout_key)
        sampling_key = keys.next()
        hidden, aux = network.forward(batch, keys)
        logits = network.head(hidden)
        sums = cross_entropy(logits, batch.targets, batch.weights, self)
        drawn = sample(jax.random.key(0) if sampling_key is None else sampling_key, logits)
        corrupted, replaced = replace_predicted(batch, drawn)
        scores, more = network.detect(corrupted, keys)
        return with_aux(self._with_discriminator(sums, scores, corrupted, replaced), added(aux, more))

    def metrics(self, sums: LossSums) -> Mapping[str, tuple[Float[Array, ""], Float[Array, ""]]]:
        """Return the extra sums, and the generator's z-loss if it has a weight."""
        z_loss = {"z_loss": (sums.z_loss, sums.weight)} if self.z_loss else {}
        return {**z_loss, **sums.extra}

    def _with_discriminator(
        self, sums: LossSums, scores: Float[Array, "B L"], corrupted: Batch, replaced: Bool[Array, "B L"]
    ) -> LossSums:
        assert corrupted.encoder is not None
        real = (jnp.asarray(corrupted.encoder.segments) > 0).astype(jnp.float32)
        changed = replaced.astype(jnp.float32) * real
        binary = jnp.sum((jax.nn.softplus(scores) - replaced * scores) * real)
        detected = scores > 0
        tokens, num_changed = jnp.sum(real), jnp.sum(changed)
        return dataclasses.replace(
            sums,
            objective=sums.objective + self.discriminator_weight * self.masked_share * binary,
            extra={
                "discriminator_loss": (binary, tokens),
                "discriminator_accuracy": (jnp.sum((detected == replaced) * real), tokens),
                "replaced": (num_changed, tokens),
                "replaced_found": (jnp.sum(detected * changed), num_changed),
            },
        )


def replace_predicted(batch: Batch, drawn: Int[Array, "B L"]) -> tuple[Batch, Bool[Array, "B L"]]:
    """Return the batch with the drawn ids at every position to predict, and which of these differ from the targets."""
    tokens = batch.encoder
    assert tokens is not None, "an encoder needs batch.encoder"
    chosen = jnp.asarray(batch.weights) > 0
    ids = jnp.where(chosen, drawn, jnp.asarray(tokens.ids))
    return (
        dataclasses.replace(batch, encoder=dataclasses.replace(tokens, ids=ids)),
        chosen & (drawn != jnp.asarray(batch.targets)),
    )
