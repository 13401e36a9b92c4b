"""Data types shared by data, models and losses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import numpy as np
from flax import struct
from jaxtyping import Float, Int

Array = jax.Array | np.ndarray
Params = dict[str, Any]
"""Nested dict of parameter arrays. A parameter's path is its keys joined by "/"."""


@struct.dataclass
class Tokens:
    """Rows of token ids. A packed row contains several examples.

    ids:       token ids; 0 is padding.
    positions: position of each token in its example, from 0.
    segments:  number of the example in the row, from 1; 0 is padding. A token attends only to its own segment.
    types:     BERT's token types (0 for the first sentence, 1 for the second), or None for all 0.
    prefix:    1 for tokens of a non-causal prefix, to which all tokens of the segment attend. None for no prefix.
    """

    ids: Int[Array, "B L"]
    positions: Int[Array, "B L"]
    segments: Int[Array, "B L"]
    types: Int[Array, "B L"] | None = None
    prefix: Int[Array, "B L"] | None = None


@dataclass(frozen=True, kw_only=True)
class Extra:
    """An extra array of a batch for an objective, not for the model: rewards, old log-probabilities, images.

    name:  the task's feature, and the key in `Batch.extra`.
    per:   "target": one value for each target, as an array [B L] aligned with `Batch.targets`. "example": one value or array for each example, as an
           array [B slots *shape]; the example with segment s is in slot s - 1.
    shape: shape of an example's value; () for a number.
    slots: maximum number of examples in a row, also for packing. Not used if `per` is "target".
    inner: logical axes of `shape`, each a name or None. () means None for all axes.
    """

    name: str
    per: Literal["target", "example"] = "example"
    shape: tuple[int, ...] = ()
    dtype: Literal["float32", "int32"] = "float32"
    slots: int = 1
    inner: tuple[str | None, ...] = ()

    @property
    def size(self) -> int:
        """Number of elements of an example's value."""
        return math.prod(self.shape)

    @property
    def axes(self) -> tuple[str | None, ...]:
        """Logical axes of the array in a batch."""
        if self.per == "target":
            return ("batch", "length")
        return ("batch", None, *(self.inner or (None,) * len(self.shape)))


@struct.dataclass
class Batch:
    """Input of a training step. An encoder model has no decoder tokens, and a decoder model has no encoder tokens.

    decoder: input tokens of the decoder, already shifted right.
    targets: the ids to predict, aligned with the logits.
    weights: weight of each target in the loss; 0 for padding and for targets without loss.
    extra:   other arrays by name, with rows on the first axis. The objective requests them, see `Extra`.
    """

    encoder: Tokens | None
    decoder: Tokens | None
    targets: Int[Array, "B L"]
    weights: Float[Array, "B L"]
    extra: Mapping[str, Array] = field(default_factory=dict)
