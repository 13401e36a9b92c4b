"""Cross-entropy, the default objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from t2t.chunked_cross_entropy import chunked_cross_entropy, positions_at_a_time
from t2t.data.values import VALUES_FEATURE
from t2t.errors import UserError
from t2t.limits import Ids, Range, Rate
from t2t.losses import LossSums, binary_cross_entropy, cross_entropy, squared_error
from t2t.nn.aux import with_aux
from t2t.nn.capabilities import VALUES
from t2t.nn.model import Capability, Model, ModelConfig
from t2t.nn.pooling import pool
from t2t.objectives.objective import Objective
from t2t.types import Batch, Params


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(Objective):
    """Cross-entropy of the targets, with two regularizers.

    Of a head for several labels of a text it is the mean binary cross-entropy of the labels. Of a head for numbers it is their mean squared error: the
    cross-entropy of normal distributions of fixed variance, up to a factor and a constant.

    Args:
        z_loss: coefficient of log(Z)^2, which keeps the softmax normalizer near 1 (Mesh TensorFlow; T5 uses 1e-4).
        label_smoothing: probability mass that is spread evenly over the vocabulary (Szegedy et al. 2016, section 7).
        block: number of positions whose logits a device holds at a time. It affects only memory and time. None chooses it for the platform, see
            `t2t.chunked_cross_entropy.positions_at_a_time`.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({"predict"})
    evaluated: ClassVar[bool] = False
    z_loss: Annotated[float, Range(0.0, 10.0)] = 0.0
    label_smoothing: Rate = 0.0
    block: Ids | None = None

    def loss(self, model: Model, params: Params, batch: Batch, dropout_key: jax.Array | None = None) -> LossSums:
        """Return the sums of the cross-entropy of the model's logits."""
        return target_losses(self, model, params, batch, dropout_key)

    def metrics(self, sums: LossSums) -> Mapping[str, tuple[Float[Array, ""], Float[Array, ""]]]:
        """Return the metrics of the sums, with the z-loss if there is one."""
        z_loss = {"z_loss": (sums.z_loss, sums.weight)} if self.z_loss else {}
        return {**z_loss, **sums.extra}

    def check(self, model: ModelConfig) -> None:
        """Raise UserError also for regularizers that the model's head does not have.

        With a span head, label smoothing would be spread over positions outside of the text. Independent labels and numbers have no softmax.
        """
        super().check(model)
        for name in ("z_loss", "label_smoothing"):
            if (value := getattr(self, name)) and model.output in VALUES:
                raise UserError(
                    f"{name} {value} (--objective.{name.replace('_', '-')}) is a regularizer of a softmax, which model.head {model.output!r} does not have."
                    " Nearest: 0.0."
                )
        if self.label_smoothing and model.can("find_span"):
            raise UserError(
                f"label_smoothing {self.label_smoothing} (--objective.label-smoothing) would be spread over positions outside of the text"
                " (model.head 'span'). Nearest: 0.0."
            )

    def places_at_once(self, model: ModelConfig, places: float) -> float:
        """Return the positions of a block if the model outputs tokens, else all positions."""
        return min(places, positions_at_a_time(self, model.vocab_size)) if model.output == "tokens" else places


def target_losses(
    terms: CrossEntropy, model: Model, params: Params, batch: Batch, dropout_key: jax.Array | None = None
) -> LossSums:
    """Return the sums of the cross-entropy of the batch's targets.

    The logits over a vocabulary are computed in chunks, see `t2t.chunked_cross_entropy`. Objectives run the forward pass for the targets only here:
    auxiliary outputs of layers are added to `LossSums` here.
    """
    if model.config.output in VALUES:
        logits, aux = model.scored(params, batch, dropout_key=dropout_key)
        return with_aux(_value_losses(model.config, logits, batch), aux)
    if model.config.output != "tokens":
        logits, aux = model.scored(params, batch, dropout_key=dropout_key)
        return with_aux(cross_entropy(logits, batch.targets, batch.weights, terms), aux)
    hidden, aux = model.forward(params, batch, dropout_key=dropout_key)
    return with_aux(
        chunked_cross_entropy(partial(model.head, params), hidden, batch.targets, batch.weights, terms), aux
    )


def _value_losses(config: ModelConfig, logits: Float[Array, "B L K"], batch: Batch) -> LossSums:
    """Return the sums of the losses of several labels or numbers for each text. The logits and the weight of a text are those at its first token."""
    assert batch.encoder is not None, "an encoder needs batch.encoder"
    values, segments = batch.extra[VALUES_FEATURE], batch.encoder.segments
    first = partial(pool, segments=segments, pooling="first", slots=values.shape[1])
    weights = first(jnp.asarray(batch.weights)[..., None])[..., 0]
    losses = binary_cross_entropy if config.output == "labels" else squared_error
    return losses(first(logits), values, weights)
