"""The interface of objectives."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from t2t.data.converters import FeatureConverter
from t2t.errors import UserError
from t2t.limits import Configuration
from t2t.losses import LossSums
from t2t.nn.model import Capability, Model, ModelConfig
from t2t.types import Batch, Extra, Params


@dataclass(frozen=True, kw_only=True)
class Objective(Configuration, abc.ABC):
    """What training minimises, as a pure function of parameters and a batch.

    needs:  what a model must be able to do, see `t2t.nn.model.Capability`.
    extras: features of the task that it wants in `Batch.extra`.
    evaluated: whether evaluation reports the objective beside the teacher-forced loss; it computes a further forward pass.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset()
    extras: ClassVar[tuple[Extra, ...]] = ()
    evaluated: ClassVar[bool] = True

    @abc.abstractmethod
    def loss(self, model: Model, params: Params, batch: Batch, dropout_key: jax.Array | None = None) -> LossSums:
        """Return sums over the batch's rows. `LossSums.objective` is differentiated.

        The sums of a batch's parts must add up to the sums of the whole batch, whatever the parts: microbatches and devices are such parts.
        Without `dropout_key` there is no dropout, and whatever is drawn is the same each time.
        """

    def weight(self, batch: Batch) -> Float[Array, ""]:
        """Return what the batch's summed objective and loss are divided by: the weight of all targets, if nothing else is said."""
        return jnp.sum(jnp.asarray(batch.weights).astype(jnp.float32))

    def converter(self, rows: FeatureConverter) -> FeatureConverter:
        """Return how examples fill rows: the converter of the model's kind, with `extras`. An objective may return another."""
        return replace(rows, extras=(*rows.extras, *self.extras)) if self.extras else rows

    def metrics(self, sums: LossSums) -> Mapping[str, tuple[Float[Array, ""], Float[Array, ""]]]:
        """Return what is reported beside loss and accuracy, by name: a sum, and the weight that it is divided by."""
        return sums.extra

    def check(self, model: ModelConfig) -> None:
        """Refuse a model that the objective cannot train, and values that do not suit the model. Raises UserError."""
        if lacking := sorted(self.needs - model.capabilities):
            able = [cls.__name__ for cls in _kinds() if cls.needs <= model.capabilities]
            raise UserError(
                f"objective {type(self).__name__} (experiment.objective) needs a model that can do {', '.join(lacking)};"
                f" {type(model).__name__} can do {', '.join(sorted(model.capabilities)) or 'nothing'}."
                + (f" Nearest: {', '.join(able)}." if able else "")
            )

    def places_at_once(self, model: ModelConfig, places: float) -> float:
        """Return for how many of a device's `places` logits exist at a time; planning asks."""
        return places


def _kinds() -> list[type[Objective]]:
    """Return the objectives there are: those of the library, and the user's own that were imported."""
    found: list[type[Objective]] = Objective.__subclasses__()
    for cls in found:
        found += cls.__subclasses__()
    return [cls for cls in found if not inspect.isabstract(cls)]
