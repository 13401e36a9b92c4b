"""What layers report beside their output: sums with their weights, as losses are (a router's loss, the load of experts)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from t2t.losses import LossSums


@struct.dataclass
class Term:
    """One number that layers report, as a sum; float32 scalars.

    Sums are added up over layers, microbatches and devices. The metric of the term's name is `sum / weight`.

    sum:       over the tokens of a layer, in general.
    weight:    what the mean divides by.
    objective: factor with which the sum is added to the training objective, itself a sum over the batch; 0 for a term that is a metric only.
    """

    sum: Float[Array, ""]
    weight: Float[Array, ""]
    objective: float = struct.field(pytree_node=False, default=0.0)


Aux = Mapping[str, Term]
"""Terms by the metric's name. Most layers have none, and then a stack computes nothing for them."""


def added(one: Aux, other: Aux) -> dict[str, Term]:
    """Return the terms of both; terms of one name are added up."""
    total = dict(one)
    for name, term in other.items():
        total[name] = jax.tree.map(jnp.add, total[name], term) if name in total else term
    return total


def over_layers(stacked: Aux) -> dict[str, Term]:
    """Return the terms of all layers together, from terms with an axis of layers in front."""
    summed: Any = jax.tree.map(lambda x: jnp.sum(x, axis=0), dict(stacked))
    return summed


def with_aux(sums: LossSums, aux: Aux) -> LossSums:
    """Return the sums of a loss with the terms of the layers: all of them as metrics, and those that belong to the objective in it too."""
    if not aux:
        return sums
    objective = sums.objective
    for term in aux.values():
        if term.objective:
            objective = objective + term.objective * term.sum
    extra = {**sums.extra, **{name: (jax.lax.stop_gradient(term.sum), term.weight) for name, term in aux.items()}}
    return dataclasses.replace(sums, objective=objective, extra=extra)
