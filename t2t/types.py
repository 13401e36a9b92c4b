"""The values that are handed from data to model to loss."""

from __future__ import annotations

from typing import Any

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


@struct.dataclass
class Batch:
    """What a step consumes. An encoder has no decoder tokens, a decoder no encoder tokens.

    decoder: the tokens fed to the decoder, already shifted right.
    targets: the ids to predict, aligned with the logits.
    weights: how much each target counts in the loss; 0 for padding and for what is not to be predicted.
    """

    encoder: Tokens | None
    decoder: Tokens | None
    targets: Int[Array, "B L"]
    weights: Float[Array, "B L"]
