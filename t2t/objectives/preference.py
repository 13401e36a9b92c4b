"""Training on pairs of answers, of which one is preferred: DPO and its relatives, without a reward model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from t2t.adapters import Adapter
from t2t.chunked_cross_entropy import positions_at_a_time
from t2t.data.converters import FeatureConverter
from t2t.data.preference_pairs import in_pairs
from t2t.errors import UserError, nearest
from t2t.limits import CountOrZero, Ids, Range, Rate, Weight
from t2t.losses import LossSums
from t2t.nn.adapters import disabled
from t2t.nn.aux import Aux, with_aux
from t2t.nn.model import Capability, Model, ModelConfig
from t2t.objectives.objective import Objective, Teacher, TeacherRun
from t2t.paths import LocalPath
from t2t.token_log_probs import token_log_probs
from t2t.types import Batch, Params

Kind = Literal["dpo", "conservative", "robust", "ipo", "simpo", "orpo"]
Beta = Annotated[float, Range(1e-6, 1e6, typical=0.1)]
_WITHOUT_REFERENCE = ("simpo", "orpo")
_SMOOTHED = ("conservative", "robust")


class Scores(NamedTuple):
    """Log-probabilities of the answers of pairs. S is a bound on the number of pairs in a row.

    chosen, rejected: sums over the targets of an answer, in nats; 0 if there is no such pair.
    chosen_size, rejected_size: number of targets of an answer.
    """

    chosen: Float[Array, "B S"]
    rejected: Float[Array, "B S"]
    chosen_size: Float[Array, "B S"]
    rejected_size: Float[Array, "B S"]

    @property
    def real(self) -> Float[Array, "B S"]:
        """1 for each pair, 0 for slots without one."""
        return ((self.chosen_size > 0) & (self.rejected_size > 0)).astype(jnp.float32)

    @property
    def means(self) -> tuple[Float[Array, "B S"], Float[Array, "B S"]]:
        """The mean log-probability of a target of each answer."""
        return self.chosen / jnp.maximum(self.chosen_size, 1.0), self.rejected / jnp.maximum(self.rejected_size, 1.0)


@dataclass(frozen=True, kw_only=True)
class Preference(Objective):
    """A loss of pairs of answers to the same inputs (`t2t.tasks.add_preferences`).

    With log p(answer | inputs) of the model minus that of a frozen reference, h is the difference of this between the preferred and the rejected answer, and s the
    logistic function. The loss of a pair is

    - "dpo": -log s(beta h) (Rafailov et al. 2023, https://arxiv.org/abs/2305.18290);
    - "conservative": -(1 - e) log s(beta h) - e log s(-beta h), where e is `label_smoothing`, the share of pairs with the wrong order (Mitchell 2023);
    - "robust": (-(1 - e) log s(beta h) + e log s(-beta h)) / (1 - 2e), which has the same mean as without wrong pairs (Chowdhury et al. 2024, arXiv:2403.00409);
    - "ipo": (h - 1 / (2 beta))^2 with means over the targets of an answer in place of sums (Azar et al. 2023, arXiv:2310.12036);
    - "simpo": -log s(beta d - gamma), where d is the difference of the mean log-probabilities of a target, without a reference (Meng et al. 2024, arXiv:2405.14734);
    - "orpo": the mean cross-entropy of the preferred answer's targets, and beta times -log s(log-odds ratio), without a reference (Hong et al. 2024, arXiv:2403.07691).
      The odds are those of the mean log-probabilities.

    Log-probabilities are sums over the answer's targets, its EOS included. `accuracy` is the share of pairs with h > 0.

    Args:
        kind: which of them.
        reference: directory of the run whose model is the reference. Its parameters are not part of checkpoints. None for a model with a LoRA adapter: the
            reference is the model without it.
        reference_step: step of its checkpoint. None takes the newest one at the start of the training.
        reference_dtype: type in which its parameters are kept.
        beta: see the formulas. The smaller it is, the further the model may go from the reference.
        label_smoothing: conservative, robust: see the formulas.
        gamma: simpo: see the formulas.
        block: number of positions whose logits a device holds at a time. It affects only memory and time.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({"generate", "predict"})
    own_rows: ClassVar[bool] = True
    kind: Kind = "dpo"
    reference: LocalPath | None = None
    reference_step: CountOrZero | None = None
    reference_dtype: Literal["float32", "bfloat16"] = "float32"
    beta: Beta = 0.1
    label_smoothing: Rate = 0.0
    gamma: Weight = 0.5
    block: Ids | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in get_args(Kind):
            raise UserError(
                f"unknown objective.kind {self.kind!r} (--objective.kind).{nearest(self.kind, get_args(Kind))}"
            )
        smoothing = f"objective.label_smoothing is {self.label_smoothing} (--objective.label-smoothing)"
        if self.label_smoothing and self.kind not in _SMOOTHED:
            raise UserError(f"{smoothing}, but objective.kind {self.kind!r} does not use it. Nearest: conservative.")
        if self.kind == "robust" and self.label_smoothing >= 0.5:
            raise UserError(f"{smoothing}: with half of the pairs in the wrong order, they say nothing. Nearest: 0.1.")
        if self.reference is not None and self.kind in _WITHOUT_REFERENCE:
            raise UserError(
                f"objective.reference is {self.reference} (--objective.reference), but objective.kind {self.kind!r} has no reference. Nearest: None, or dpo."
            )

    @property
    def teacher_run(self) -> TeacherRun | None:
        """The reference, if it is a run."""
        if self.reference is None:
            return None
        return TeacherRun(self.reference, self.reference_step, self.reference_dtype, option="reference")

    def loss(self, model: Model, params: Params, batch: Batch, dropout_key: jax.Array | None = None) -> LossSums:
        """Return the sums over the pairs. The reference is the model without its adapter."""
        reference = None
        if self.kind not in _WITHOUT_REFERENCE:
            reference, _ = self.scores(model, disabled(params), batch)
        return self._sums(*self.scores(model, params, batch, dropout_key), reference)

    def taught_loss(
        self, teacher: Teacher, model: Model, params: Params, batch: Batch, dropout_key: jax.Array | None = None
    ) -> LossSums:
        """Return the sums over the pairs, given the reference."""
        reference, _ = self.scores(teacher.model, teacher.params, batch)
        return self._sums(*self.scores(model, params, batch, dropout_key), reference)

    def scores(
        self, model: Model, params: Params, batch: Batch, dropout_key: jax.Array | None = None
    ) -> tuple[Scores, Aux]:
        """Return the log-probabilities of the answers, and the auxiliary terms of the layers."""
        hidden, aux = model.forward(params, batch, dropout_key=dropout_key)
        size = positions_at_a_time(self, model.config.vocab_size)
        each = token_log_probs(partial(model.head, params), hidden, batch.targets, positions=size)
        weights = jnp.asarray(batch.weights, jnp.float32)
        sums, sizes = (_by_segment(values, batch) for values in (each * weights, weights))
        return Scores(sums[:, 1::2], sums[:, 2::2], sizes[:, 1::2], sizes[:, 2::2]), aux

    def weight(self, batch: Batch) -> Float[Array, ""]:
        """Return the number of pairs."""
        sizes = _by_segment(jnp.asarray(batch.weights, jnp.float32), batch)
        return jnp.sum((sizes[:, 1::2] > 0) & (sizes[:, 2::2] > 0)).astype(jnp.float32)

    def converter(self, rows: FeatureConverter) -> FeatureConverter:
        """Return the converter of pairs."""
        return super().converter(in_pairs(rows))

    def check(self, model: ModelConfig) -> None:
        """Raise UserError also if attention cannot separate the two answers of a row."""
        super().check(model)
        model.check_run(packing=True, context=1)

    def check_adapter(self, adapter: Adapter) -> None:
        """Raise UserError if there is no reference: neither a run, nor an adapter that can be disabled."""
        if self.kind in _WITHOUT_REFERENCE or self.reference is not None:
            return
        what = "objective.reference is None (--objective.reference)"
        if not adapter.enabled:
            raise UserError(
                f"{what}, and there is no adapter without which the model is the reference. Nearest: the run that this one starts from, or --adapter.rank 16."
            )
        if adapter.kind != "lora" or adapter.trained:
            why = f"adapter.kind is {adapter.kind!r}" if adapter.kind != "lora" else "adapter.trained is not empty"
            raise UserError(
                f"{what}, but {why}, so the model without its adapter is not the one that it started from. Nearest: the run that this one starts from."
            )

    def places_at_once(self, model: ModelConfig, places: float) -> float:
        """Return the positions of a block."""
        return min(places, positions_at_a_time(self, model.vocab_size))

    def _sums(self, own: Scores, aux: Aux, reference: Scores | None) -> LossSums:
        reference = None if reference is None else jax.tree.map(jax.lax.stop_gradient, reference)
        each, margin = pair_losses(self, own, reference)
        real, beta = own.real, self.beta
        total, count = jnp.sum(each * real), jnp.sum(real)

        def mean(values: Float[Array, "B S"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
            return jax.lax.stop_gradient(jnp.sum(values * real)), count

        extra = {"log_prob_chosen": mean(own.chosen), "log_prob_rejected": mean(own.rejected)}
        if reference is not None:
            extra |= {
                "reward_chosen": mean(beta * (own.chosen - reference.chosen)),
                "reward_rejected": mean(beta * (own.rejected - reference.rejected)),
                "reward_margin": mean(beta * margin),
            }
        extra["pair_accuracy"] = mean((margin > 0).astype(jnp.float32))
        sums = LossSums(objective=total, loss=total, weight=count, correct=extra["pair_accuracy"][0], extra=extra)
        return with_aux(sums, aux)


def pair_losses(
    terms: Preference, own: Scores, reference: Scores | None
) -> tuple[Float[Array, "B S"], Float[Array, "B S"]]:
    """Return the loss of each pair, and the difference by which it prefers the chosen answer, h (without a reference, of means)."""
    if reference is None:
        chosen, rejected = own.means
        margin = chosen - rejected
        if terms.kind == "simpo":
            return -jax.nn.log_sigmoid(terms.beta * margin - terms.gamma), margin
        odds = margin - (_log1mexp(chosen) - _log1mexp(rejected))
        return -chosen - terms.beta * jax.nn.log_sigmoid(odds), margin
    margin = (own.chosen - reference.chosen) - (own.rejected - reference.rejected)
    if terms.kind == "ipo":
        ours, theirs = own.means, reference.means
        per_target = (ours[0] - theirs[0]) - (ours[1] - theirs[1])
        return jnp.square(per_target - 1 / (2 * terms.beta)), margin
    right, wrong = (-jax.nn.log_sigmoid(sign * terms.beta * margin) for sign in (1.0, -1.0))
    smoothing = terms.label_smoothing
    if terms.kind == "robust":
        return ((1 - smoothing) * right - smoothing * wrong) / (1 - 2 * smoothing), margin
    return (1 - smoothing) * right + smoothing * wrong, margin


def _log1mexp(x: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """Return log(1 - exp(x)) for x < 0. Values near 0 count as -1e-6, whose gradient is finite."""
    x = jnp.minimum(x, -1e-6)
    return jnp.where(x > -0.7, jnp.log(-jnp.expm1(x)), jnp.log1p(-jnp.exp(x)))


def _by_segment(values: Float[Array, "B L"], batch: Batch) -> Float[Array, "B S"]:
    """Return the sums of a row's values over each segment of its targets; index 0 is padding."""
    assert batch.decoder is not None, "only decoders answer"
    segments = jnp.asarray(batch.decoder.segments)
    count = 2 * (segments.shape[1] // 2) + 1
    total: Callable[..., jax.Array] = partial(jax.ops.segment_sum, num_segments=count)
    return jax.vmap(total)(values, segments)
