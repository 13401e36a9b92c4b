"""Sizes that give a model as many parameters, or FLOPs for each token, as another one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from t2t.errors import UserError
from t2t.nn.model import ModelConfig
from t2t.objectives import CrossEntropy
from t2t.optim.paths import flatten_specs
from t2t.optim.state_axes import abstract_params
from t2t.plan.flops import dots
from t2t.types import Batch, Tokens

Equal = Literal["parameters", "FLOPs"]


@dataclass(frozen=True, kw_only=True)
class Matched:
    """A size, and what remains. difference: (value - target) / target."""

    size: int
    difference: float


def match(measure: Callable[[int], float], target: float, *, multiple: int, what: str) -> Matched:
    """Return the multiple of `multiple` whose measure is nearest to `target`.

    measure: grows with the size along a straight line, as parameters and FLOPs do with the width of a feed-forward layer. It is called twice.
    what:    what is measured, for errors.
    Raises UserError if the smallest size has more than the target.
    """
    least, more = measure(multiple), measure(2 * multiple)
    step = more - least
    count = 1 + round((target - least) / step)
    if count < 1:
        raise UserError(
            f"{what}: with a feed-forward layer of width {multiple} (--multiple), the model has {least:,.0f}, more than the {target:,.0f} of the reference."
            " Nearest: a wider feed-forward layer of the reference."
        )
    value = least + (count - 1) * step
    return Matched(size=count * multiple, difference=value / target - 1)


def parameters(config: ModelConfig) -> int:
    """Return the number of parameters of a model."""
    return sum(spec.size for spec in flatten_specs(config.build().specs).values())


def flops_per_token(config: ModelConfig, length: int) -> float:
    """Return the FLOPs for each token of a training step of a decoder on full rows of `length` tokens: three times the forward pass, see `t2t.plan.flops`."""
    model = config.build()
    ids = np.ones((1, length), np.int32)
    weights = np.ones((1, length), np.float32)
    batch = Batch(encoder=None, decoder=Tokens(ids=ids, positions=ids, segments=ids), targets=ids, weights=weights)
    forward = dots(
        lambda params, batch: CrossEntropy().loss(model, params, batch).objective, abstract_params(model.specs), batch
    )
    return 3.0 * sum(forward.values()) / length


def measured(config: ModelConfig, equal: Equal, length: int) -> float:
    """Return what shall be equal: the number of parameters, or the FLOPs for each token of rows of `length` tokens."""
    return parameters(config) if equal == "parameters" else flops_per_token(config, length)
