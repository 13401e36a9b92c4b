"""Cross-entropy of a model's logits: the default objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import jax
from jaxtyping import Array, Float

from t2t.chunked_cross_entropy import chunked_cross_entropy, positions_at_a_time
from t2t.errors import UserError
from t2t.limits import Ids, Range, Rate
from t2t.losses import LossSums, cross_entropy
from t2t.nn.aux import with_aux
from t2t.nn.model import Capability, Model, ModelConfig
from t2t.objectives.objective import Objective
from t2t.types import Batch, Params


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(Objective):
    """Cross-entropy of the targets, with two regularizers.

    Args:
        z_loss: times log(Z)^2, which keeps the softmax normalizer near 1 (Mesh TensorFlow; T5 uses 1e-4).
        label_smoothing: probability mass spread evenly over the vocabulary (Szegedy et al. 2016, section 7).
        block: positions whose logits a device holds at a time; those of a whole batch never exist. Changes nothing but memory and time. None: as many
            as suit the platform, see `t2t.chunked_cross_entropy.positions_at_a_time`.
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
        """Return also the z-loss, where there is one."""
        z_loss = {"z_loss": (sums.z_loss, sums.weight)} if self.z_loss else {}
        return {**z_loss, **sums.extra}

    def check(self, model: ModelConfig) -> None:
        """Refuse also smoothing over the places of a span: most of them are outside of the text."""
        super().check(model)
        if self.label_smoothing and model.can("find_span"):
            raise UserError(
                f"label_smoothing {self.label_smoothing} (--objective.label-smoothing) would be spread over places outside of the text"
                " (model.head 'span'). Nearest: 0.0."
            )

    def places_at_once(self, model: ModelConfig, places: float) -> float:
        """Return the positions of a block where the logits score the vocabulary, else all places."""
        return min(places, positions_at_a_time(self, model.vocab_size)) if model.output == "tokens" else places


def target_losses(
    terms: CrossEntropy, model: Model, params: Params, batch: Batch, dropout_key: jax.Array | None = None
) -> LossSums:
    """Return the sums of the cross-entropy of the batch's targets.

    The logits of a vocabulary are never made as a whole, see `t2t.chunked_cross_entropy`. This is the one place where objectives run a model's forward pass for its
    targets: what layers report besides hidden states goes into `LossSums` here.
    """
    if model.config.output != "tokens":
        logits, aux = model.scored(params, batch, dropout_key=dropout_key)
        return with_aux(cross_entropy(logits, batch.targets, batch.weights, terms), aux)
    hidden, aux = model.forward(params, batch, dropout_key=dropout_key)
    return with_aux(
        chunked_cross_entropy(partial(model.head, params), hidden, batch.targets, batch.weights, terms), aux
    )
