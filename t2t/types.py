"""The values that are handed from data to model to loss."""

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
"""Nested dict of parameter arrays; a path is its keys joined by "/"."""


@struct.dataclass
class Tokens:
    """Rows of token ids, several examples to a row where packed.

    ids:       vocabulary ids; 0 is padding.
    positions: place of each token in its own example, from 0.
    segments:  1, 2, ... number the examples of a row; 0 is padding. A token sees only its own segment.
    types:     BERT's token types (0 first sentence, 1 second), or None for all 0.
    prefix:    1 where a decoder with a non-causal prefix lets every token of the segment look, or None for nowhere.
    """

    ids: Int[Array, "B L"]
    positions: Int[Array, "B L"]
    segments: Int[Array, "B L"]
    types: Int[Array, "B L"] | None = None
    prefix: Int[Array, "B L"] | None = None


@dataclass(frozen=True, kw_only=True)
class Extra:
    """An array of a batch that no model reads but an objective wants: rewards, old log-probabilities, images.

    name:  the task's feature, and the key in `Batch.extra`.
    per:   "target" has one value for each of an example's targets, and becomes [B L], beside `Batch.targets`; "example" has one value, or an array of
           them, for each example, and becomes [B slots *shape]: the example with segment s of its row is in slot s - 1.
    shape: of an example's value; () for a number.
    slots: examples of a row that there is room for; packing puts no more into one. With `per` "target" it has no meaning.
    inner: logical axes of `shape`, a name or None each; none given are all None.
    """

    name: str
    per: Literal["target", "example"] = "example"
    shape: tuple[int, ...] = ()
    dtype: Literal["float32", "int32"] = "float32"
    slots: int = 1
    inner: tuple[str | None, ...] = ()

    @property
    def size(self) -> int:
        """Numbers of an example's value."""
        return math.prod(self.shape)

    @property
    def axes(self) -> tuple[str | None, ...]:
        """Logical axes of the array in a batch."""
        if self.per == "target":
            return ("batch", "length")
        return ("batch", None, *(self.inner or (None,) * len(self.shape)))


@struct.dataclass
class Batch:
    """What a step consumes. An encoder has no decoder tokens, a decoder no encoder tokens.

    decoder: the tokens fed to the decoder, already shifted right.
    targets: the ids to predict, aligned with the logits.
    weights: how much each target counts in the loss; 0 for padding and for what is not to be predicted.
    extra:   further arrays by name, rows first; what an objective asked for, see `Extra`.
    """

    encoder: Tokens | None
    decoder: Tokens | None
    targets: Int[Array, "B L"]
    weights: Float[Array, "B L"]
    extra: Mapping[str, Array] = field(default_factory=dict)
