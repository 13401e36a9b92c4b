"""Auxiliary terms that layers report besides their output, as sums and weights like losses (a router's loss, the load of experts)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from t2t.losses import LossSums


class AuxTerm(Protocol):
    """A term that layers report: a pytree of sums. Terms of the same name are added up, array by array, over layers.

    The metric with the term's name is `sum / weight`; these are added up over microbatches and devices.
    """

    @property
    def sum(self) -> Float[Array, ""]:
        """Dividend of the metric."""

    @property
    def weight(self) -> Float[Array, ""]:
        """Divisor of the metric."""

    @property
    def objective(self) -> float:
        """Factor in the training objective. 0 means that the term is only a metric."""

    def in_objective(self, weight: Float[Array, ""]) -> Float[Array, ""]:
        """Return what is added to an objective that will be divided by `weight`."""


@struct.dataclass
class Term:
    """One number that layers report, as a sum. The arrays are float32 scalars.

    Sums are added up over layers, microbatches and devices. The metric with the term's name is `sum / weight`.

    sum:       sum, usually over the tokens of a layer.
    weight:    divisor of the mean.
    objective: factor of the sum in the training objective, which is itself a sum over the batch. 0 means that the term is only a metric.
    """

    sum: Float[Array, ""]
    weight: Float[Array, ""]
    objective: float = struct.field(pytree_node=False, default=0.0)

    def in_objective(self, weight: Float[Array, ""]) -> Float[Array, ""]:
        """Return the sum times the factor."""
        return self.objective * self.sum


@struct.dataclass
class Mean:
    """A number whose mean, not whose sum, is part of the objective. Fields as in `Term`."""

    sum: Float[Array, ""]
    weight: Float[Array, ""]
    objective: float = struct.field(pytree_node=False, default=0.0)

    def in_objective(self, weight: Float[Array, ""]) -> Float[Array, ""]:
        """Return the mean times the factor and the divisor of the objective."""
        return self.objective * self.sum / jnp.maximum(self.weight, 1.0) * weight


Aux = Mapping[str, AuxTerm]
"""Terms by the name of the metric. Most layers have none; then a stack computes nothing for them."""


def added(one: Aux, other: Aux) -> dict[str, AuxTerm]:
    """Return the terms of both. Terms with the same name are added."""
    total = dict(one)
    for name, term in other.items():
        total[name] = jax.tree.map(jnp.add, total[name], term) if name in total else term
    return total


def over_layers(stacked: Aux) -> dict[str, AuxTerm]:
    """Return the sum over all layers of terms that have a leading axis of layers."""
    summed: Any = jax.tree.map(lambda x: jnp.sum(x, axis=0), dict(stacked))
    return summed


def with_aux(sums: LossSums, aux: Aux) -> LossSums:
    """Return the sums of a loss with the terms of the layers: all as metrics, and those with a factor also in the objective."""
    if not aux:
        return sums
    objective = sums.objective
    for term in aux.values():
        if term.objective:
            objective = objective + term.in_objective(sums.weight)
    extra = {**sums.extra, **{name: (jax.lax.stop_gradient(term.sum), term.weight) for name, term in aux.items()}}
    return dataclasses.replace(sums, objective=objective, extra=extra)
