"""Distillation: a student learns the probabilities of a frozen teacher (Hinton et al. 2015, https://arxiv.org/abs/1503.02531)."""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from t2t.chunked_cross_entropy import chunked_cross_entropy, positions_at_a_time
from t2t.errors import UserError
from t2t.limits import CountOrZero, Range, Share, Weight
from t2t.losses import LossSums, cross_entropy, cross_entropy_and_gradient
from t2t.nn.aux import Mean, with_aux
from t2t.nn.capabilities import VALUES
from t2t.nn.layer_outputs import LayerOutputs, recorded
from t2t.nn.model import Model, ModelConfig
from t2t.nn.pooling import unit
from t2t.objectives.cross_entropy import CrossEntropy
from t2t.objectives.objective import Teacher, TeacherRun
from t2t.objectives.projection import projected, with_projections
from t2t.paths import LocalPath
from t2t.types import Array as AnyArray
from t2t.types import Batch, Params

Temperature = Annotated[float, Range(0.01, 1000.0, typical=2.0)]
DISTANCE = "hidden_distance"
"""The metric: the mean cosine distance between the outputs of compared layers."""
DIVERGENCE = "divergence"
"""The metric: KL(teacher || student) of a target at the temperature, in nats."""


@dataclass(frozen=True, kw_only=True)
class Distillation(CrossEntropy):
    """Cross-entropy of the targets, and the divergence of the student's probabilities from a teacher's (Hinton et al. 2015).

    The objective of a target is hard_weight * cross-entropy + (1 - hard_weight) * temperature^2 * KL(teacher || student). Both distributions are
    softmax(logits / temperature). The factor temperature^2 keeps the size of the gradients. The cross-entropy has the regularizers of `CrossEntropy`.

    The teacher has the student's vocabulary and kind, and reads the same rows, without dropout. Its parameters are not part of checkpoints.

    Args:
        teacher: directory of the teacher's run. It may move while training is stopped.
        teacher_step: step of the teacher's checkpoint. None takes the newest one at the start of the training.
        teacher_dtype: type in which the teacher's parameters are kept.
        temperature: divisor of the logits in the divergence.
        hard_weight: weight of the cross-entropy of the targets. 0 trains with the teacher's probabilities alone, 1 without them.
        hidden_weight: weight of the mean cosine distance between the outputs of the student's layers and of the teacher's. If a stack of the student has another
            width than the teacher's, a linear map to the teacher's width is trained with the student (`t2t.objectives.projection`).
        teacher_layers: for each layer of each stack of the student, the layer of the teacher with which it is compared, from 0. () takes the last of
            each of equal groups: 1 3 5 of six layers for three.
    """

    teacher: LocalPath | None = None
    teacher_step: CountOrZero | None = None
    teacher_dtype: Literal["float32", "bfloat16"] = "float32"
    temperature: Temperature = 2.0
    hard_weight: Share = 0.5
    hidden_weight: Weight = 0.0
    teacher_layers: tuple[CountOrZero, ...] = ()

    @property
    def teacher_run(self) -> TeacherRun | None:
        """The teacher's run."""
        return None if self.teacher is None else TeacherRun(self.teacher, self.teacher_step, self.teacher_dtype)

    def taught_loss(
        self, teacher: Teacher, model: Model, params: Params, batch: Batch, dropout_key: jax.Array | None = None
    ) -> LossSums:
        """Return the sums over the targets. `loss` is the plain cross-entropy, and the metric "divergence" is not multiplied by temperature^2."""
        with self._recording() as theirs:
            target = jax.lax.stop_gradient(_outputs_of(teacher, batch))
        with self._recording() as ours:
            if model.config.output != "tokens":
                logits, aux = model.scored(params, batch, dropout_key=dropout_key)
                hard = cross_entropy(logits, batch.targets, batch.weights, self)
                sums = _joined(self, hard, divergence(logits, target, batch.weights, self.temperature))
            else:
                hidden, aux = model.forward(params, batch, dropout_key=dropout_key)
                sums = self._of_hidden(teacher, model, params, batch, hidden, target)
        if self.hidden_weight:
            distances = [
                self._distance(projected(params, side, own), theirs[side], _segments(batch, side))
                for side, own in ours.items()
            ]
            total, weight = (jnp.sum(jnp.stack(part)) for part in zip(*distances, strict=True))
            aux = {**aux, DISTANCE: Mean(total, weight, self.hidden_weight)}
        return with_aux(sums, aux)

    @property
    def adds_parameters(self) -> bool:
        """Whether hidden states are compared: they may need a projection."""
        return self.hidden_weight > 0

    def extended(self, model: Model, teacher: Model | None) -> Model:
        """Return the model with a projection for each stack whose width is not the teacher's, if hidden states are compared."""
        widths: dict[str, tuple[int, int]] = {}
        if not self.adds_parameters or teacher is None:
            return model
        for side in model.config.sides:
            own, theirs = (getattr(one.config, side).d_model for one in (model, teacher))
            if own != theirs:
                widths[side] = (own, theirs)
        return with_projections(model, widths)

    def check(self, model: ModelConfig) -> None:
        """Raise UserError also if there is no teacher, or if the model's logits are not those of a softmax."""
        super().check(model)
        if self.teacher is None:
            raise UserError(
                "objective.teacher is None (--objective.teacher): distillation needs a teacher. Nearest: the directory of a run."
            )
        if model.output in VALUES:
            raise UserError(
                f"objective Distillation (experiment.objective) compares softmax distributions, which model.head {model.output!r} does not have."
                " Nearest: CrossEntropy."
            )

    def places_at_once(self, model: ModelConfig, places: float) -> float:
        """Return twice the positions of a block: each has the logits of two models."""
        block = positions_at_a_time(self, 2 * model.vocab_size) if model.output == "tokens" else places
        return 2 * min(places, block)

    def check_teacher(self, model: ModelConfig, teacher: ModelConfig) -> None:
        """Raise UserError if hidden states are compared and a model has no stacks, or if `teacher_layers` are not layers of the teacher."""
        if self.teacher_layers and not self.hidden_weight:
            raise UserError(
                "objective.teacher_layers is set (--objective.teacher-layers), but objective.hidden_weight is 0.0 (--objective.hidden-weight), so no layers are"
                " compared. Nearest: 1.0."
            )
        for side in model.sides if self.hidden_weight else ():
            own, theirs = getattr(model, side, None), getattr(teacher, side, None)
            where = f"objective.hidden_weight {self.hidden_weight} (--objective.hidden-weight)"
            if own is None or theirs is None:
                raise UserError(f"{where}: a {type(model).__name__} has no layers to compare. Nearest: 0.0.")
            layers = f"objective.teacher_layers {' '.join(map(str, self.teacher_layers))} (--objective.teacher-layers)"
            if self.teacher_layers and len(self.teacher_layers) != own.num_layers:
                raise UserError(
                    f"{layers}: the {side} of the student has {own.num_layers} layers. Nearest: as many numbers."
                )
            if wrong := [layer for layer in self.teacher_layers if layer >= theirs.num_layers]:
                raise UserError(
                    f"{layers}: the {side} of the teacher has no layer {wrong[0]}. Nearest: {theirs.num_layers - 1}."
                )

    def _recording(self) -> contextlib.AbstractContextManager[LayerOutputs]:
        return recorded() if self.hidden_weight else contextlib.nullcontext({})

    def _of_hidden(
        self,
        teacher: Teacher,
        model: Model,
        params: Params,
        batch: Batch,
        hidden: Float[Array, "B L D"],
        theirs: Float[Array, "B L E"],
    ) -> LossSums:
        """Return the sums of the logits that the heads make of the last hidden states."""
        width = hidden.shape[-1]

        # Both heads are one function of both outputs, so that the logits of a block of positions exist at the same time, and no others.
        def heads(joint: Float[Array, "N D"]) -> Float[Array, "N 2 V"]:
            own = model.head(params, joint[..., :width].astype(hidden.dtype))
            other = teacher.model.head(teacher.params, joint[..., width:].astype(theirs.dtype))
            return jnp.stack([own, jax.lax.stop_gradient(other)], axis=-2)

        kind = jnp.promote_types(hidden.dtype, theirs.dtype)
        joint = jnp.concatenate([hidden.astype(kind), theirs.astype(kind)], axis=-1)
        return chunked_cross_entropy(heads, joint, batch.targets, batch.weights, self, of_joint_logits)

    def _distance(
        self, own: Float[Array, "S B L D"], theirs: Float[Array, "T B L D"], segments: Int[AnyArray, "B L"]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Return the sum of the cosine distances of layers at tokens, and its weight."""
        depth, available = own.shape[0], theirs.shape[0]
        compared = self.teacher_layers or [(layer + 1) * available // depth - 1 for layer in range(depth)]
        length = segments.shape[1]  # virtual tokens come before the others
        own, theirs = own[:, :, -length:], jax.lax.stop_gradient(theirs)[jnp.array(compared), :, -length:]
        cosines = jnp.sum(unit(own.astype(jnp.float32)) * unit(theirs.astype(jnp.float32)), axis=-1)
        real = (jnp.asarray(segments) > 0).astype(jnp.float32)
        return jnp.sum((1.0 - cosines) * real), depth * jnp.sum(real)


def _outputs_of(teacher: Teacher, batch: Batch) -> Float[Array, "B L D"]:
    """Return what the teacher's loss is computed from: its last hidden states if its logits score tokens, else its logits."""
    model = teacher.model
    return (model.hidden if model.config.output == "tokens" else model.logits)(teacher.params, batch)


def _segments(batch: Batch, side: str) -> Int[AnyArray, "B L"]:
    tokens = batch.encoder if side == "encoder" else batch.decoder
    assert tokens is not None, f"the batch has no {side} tokens"
    return tokens.segments


def divergence(
    student: Float[Array, "*B V"],
    teacher: Float[Array, "*B V"],
    weights: Float[AnyArray, "*B"],
    temperature: float,
) -> Float[Array, ""]:
    """Return the weighted sum of KL(teacher || student) of softmax(logits / temperature), in nats."""
    log_p, log_q = (jax.nn.log_softmax(logits.astype(jnp.float32) / temperature) for logits in (teacher, student))
    p = jnp.exp(log_p)
    # A position that both models exclude has a logit of about -1e30, and probability 0.
    return jnp.sum(jnp.where(p > 0, p * (log_p - log_q), 0.0).sum(axis=-1) * jnp.asarray(weights, jnp.float32))


def of_joint_logits(
    logits: Float[Array, "*B 2 V"], targets: Int[AnyArray, "*B"], weights: Float[AnyArray, "*B"], terms: Distillation
) -> tuple[LossSums, Float[Array, "*B 2 V"]]:
    """Return the sums of distillation, and the gradient of the objective with respect to the logits.

    logits: those of the student and of the teacher. The gradient of the teacher's is 0.
    """
    student, teacher = (logits[..., i, :].astype(jnp.float32) for i in (0, 1))
    hard, gradient = cross_entropy_and_gradient(student, targets, weights, terms)
    sums = _joined(terms, hard, divergence(student, teacher, weights, terms.temperature))
    # d/ds of temperature^2 * KL is temperature * (q - p).
    q, p = (jax.nn.softmax(part / terms.temperature) for part in (student, teacher))
    soft = terms.temperature * (q - p) * jnp.asarray(weights, jnp.float32)[..., None]
    gradient = terms.hard_weight * gradient + (1 - terms.hard_weight) * soft
    return sums, jnp.stack([gradient, jnp.zeros_like(gradient)], axis=-2)


def _joined(terms: Distillation, hard: LossSums, divergence: Float[Array, ""]) -> LossSums:
    """Return the sums of the cross-entropy with the divergence in objective and metrics."""
    soft = terms.temperature**2 * divergence
    return dataclasses.replace(
        hard,
        objective=terms.hard_weight * hard.objective + (1 - terms.hard_weight) * soft,
        extra={**hard.extra, DIVERGENCE: (jax.lax.stop_gradient(divergence), hard.weight)},
    )
