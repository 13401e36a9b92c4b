"""The interface of objectives."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from t2t.adapters import Adapter
from t2t.data.converters import FeatureConverter
from t2t.errors import UserError
from t2t.limits import Configuration
from t2t.losses import LossSums
from t2t.nn.model import Capability, Model, ModelConfig
from t2t.types import Batch, Extra, Params


@dataclass(frozen=True)
class TeacherRun:
    """A run that an objective names, see `Objective.teacher_run`.

    directory: the run's directory.
    step:      step of its checkpoint; None for the newest when training starts.
    dtype:     type in which its parameters are kept.
    option:    name of the objective's field that names it, for errors.
    """

    directory: str
    step: int | None = None
    dtype: str = "float32"
    option: str = "teacher"


@dataclass(frozen=True)
class Teacher:
    """A model that an objective reads and does not train, with its parameters."""

    model: Model
    params: Params


DifferentiableLoss = Callable[[Params, Batch, jax.Array], tuple[Float[Array, ""], LossSums]]


@dataclass(frozen=True, kw_only=True)
class Objective(Configuration, abc.ABC):
    """The quantity that training minimises, as a pure function of parameters and a batch.

    needs:     capabilities that the model must have, see `t2t.nn.model.Capability`.
    extras:    features of the task that the objective needs in `Batch.extra`.
    evaluated: whether evaluation reports the objective in addition to the teacher-forced loss. This costs another forward pass.
    own_rows:  whether `converter` arranges rows in another way than single examples, so that evaluation reads them once more for the objective.
    whole_batch: whether the loss compares the rows of a batch with each other, so that the sums of its parts do not add up. Microbatches are refused.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset()
    extras: ClassVar[tuple[Extra, ...]] = ()
    evaluated: ClassVar[bool] = True
    whole_batch: ClassVar[bool] = False
    own_rows: ClassVar[bool] = False

    @abc.abstractmethod
    def loss(self, model: Model, params: Params, batch: Batch, dropout_key: jax.Array | None = None) -> LossSums:
        """Return sums over the rows of the batch. `LossSums.objective` is differentiated.

        The sums of the parts of a batch (on microbatches and devices) must add up to the sums of the whole batch, unless `whole_batch`.
        Without `dropout_key`, there is no dropout and the result is deterministic.
        """

    @property
    def teacher_run(self) -> TeacherRun | None:
        """The run whose model the loss reads. Its parameters are frozen and are loaded beside the training state. None if there is none."""
        return None

    def taught_loss(
        self, teacher: Teacher, model: Model, params: Params, batch: Batch, dropout_key: jax.Array | None = None
    ) -> LossSums:
        """Return sums like `loss`, given the model of `teacher_run`. Training calls it in place of `loss` if there is such a run."""
        raise NotImplementedError(f"{type(self).__name__} has a teacher_run, but no taught_loss")

    def check_teacher(self, model: ModelConfig, teacher: ModelConfig) -> None:  # no further limits by default
        """Raise UserError if the model of `teacher_run` does not suit the objective. It has the model's kind and scores what it scores."""

    @property
    def adds_parameters(self) -> bool:
        """Whether `extended` may add parameters."""
        return False

    def extended(self, model: Model, teacher: Model | None) -> Model:
        """Return the model with parameters that training adds to it and the objective reads (`Model.extended`); the model itself if there are none.

        They are always trained. Checkpoints have them, and the model of the run for evaluation, inference and export does not.

        teacher: the model of `teacher_run`.
        """
        return model

    def gradients(
        self, loss: DifferentiableLoss, params: Params, batch: Batch, key: jax.Array
    ) -> tuple[Params, LossSums]:
        """Return the gradients of `loss` and its sums. Override it for another way to compute an update, such as sharpness-aware minimization.

        loss:   (params, batch, key) -> (scalar, LossSums); the scalar is the part's objective over the batch's weight.
        params: the trainable parameters; an override does not get the biases that follow the load of experts (`Router.bias_rate`).
        batch:  the batch, or a microbatch: gradients of microbatches are summed.
        """
        return jax.grad(loss, has_aux=True)(params, batch, key)

    def weight(self, batch: Batch) -> Float[Array, ""]:
        """Return the divisor of the batch's summed objective and loss. The default is the weight of all targets."""
        return jnp.sum(jnp.asarray(batch.weights).astype(jnp.float32))

    def converter(self, rows: FeatureConverter) -> FeatureConverter:
        """Return the converter from examples to rows: that of the model's kind, with `extras`. An objective may return another one."""
        return replace(rows, extras=(*rows.extras, *self.extras)) if self.extras else rows

    def metrics(self, sums: LossSums) -> Mapping[str, tuple[Float[Array, ""], Float[Array, ""]]]:
        """Return additional metrics by name, each as a sum and the weight by which it is divided."""
        return sums.extra

    def check(self, model: ModelConfig) -> None:
        """Raise UserError if the objective cannot train the model, or if its values do not fit the model."""
        if lacking := sorted(self.needs - model.capabilities):
            able = [cls.__name__ for cls in _kinds() if cls.needs <= model.capabilities]
            raise UserError(
                f"objective {type(self).__name__} (experiment.objective) needs a model that can do {', '.join(lacking)};"
                f" {type(model).__name__} can do {', '.join(sorted(model.capabilities)) or 'nothing'}."
                + (f" Nearest: {', '.join(able)}." if able else "")
            )

    def check_adapter(self, adapter: Adapter) -> None:  # any adapter by default
        """Raise UserError if the objective cannot train a model with this adapter, or without one."""

    def places_at_once(self, model: ModelConfig, places: float) -> float:
        """Return the number of a device's `places` (positions) whose logits exist at the same time, for planning."""
        return places


def _kinds() -> list[type[Objective]]:
    """Return all objectives: those of the library and those of imported user code."""
    found: list[type[Objective]] = Objective.__subclasses__()
    for cls in found:
        found += cls.__subclasses__()
    return [cls for cls in found if not inspect.isabstract(cls)]
