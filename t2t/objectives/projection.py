"""Trained linear maps from a student's hidden states to the width of its teacher's (TinyBERT, Jiao et al. 2020, https://arxiv.org/abs/1909.10351, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping

from flax import nnx
from jaxtyping import Array, Float

from t2t.nn.initializers import Normal
from t2t.nn.linear import Linear, matmul
from t2t.nn.model import Model
from t2t.nn.parameters import put
from t2t.types import Params

PROJECTION = "projection"
"""Folder of the parameters."""


class Projections(nnx.Module):
    """A kernel for each side of a batch, which all layers of the side's stack share.

    widths: side -> (width of the student, width of the teacher).
    """

    def __init__(self, widths: Mapping[str, tuple[int, int]]) -> None:
        for side, (own, theirs) in widths.items():
            put(self, side, Linear(own, theirs, ("embed", None), bias=False, init=Normal(own**-0.5)))


def with_projections(model: Model, widths: Mapping[str, tuple[int, int]]) -> Model:
    """Return the model with projections beside its own parameters; the model itself if there is no width. widths: see `Projections`."""
    return model.extended(lambda network: put(network, PROJECTION, Projections(widths))) if widths else model


def projected(params: Params, side: str, hidden: Float[Array, "*B D"]) -> Float[Array, "*B E"]:
    """Return hidden states in the width of the teacher; `hidden` itself if the parameters have no projection of the side."""
    kernels = params.get(PROJECTION, {})
    return matmul(hidden, kernels[side]["kernel"]) if side in kernels else hidden
