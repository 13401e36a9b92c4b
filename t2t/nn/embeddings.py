"""Embedding tables of tokens, positions and token types, and logits computed with a token table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from t2t.nn.adapters import Adaptable, Adapters, LowRank
from t2t.nn.initializers import ZEROS, Initializer, Normal, Uniform
from t2t.nn.linear import matmul
from t2t.nn.parameters import parameter


class VirtualTokens(nnx.Module):
    """Trained vectors before the tokens of a text (prompt tuning, Lester et al. 2021). They start uniform between -0.5 and 0.5 (section 3.2).

    count, size: number and width of the vectors.
    """

    def __init__(self, count: int, size: int) -> None:
        self.count = count
        self.table = parameter((count, size), (None, "embed"), Uniform(0.5), decay=False)


class Embedding(Adaptable):
    """An embedding table with `rows` vectors.

    axis: logical axis of the rows: "vocab", "positions" or "types".
    virtual: None, or vectors that ids below 0 name: -1 is the first (`t2t.adapters`).
    tied: logits come from the table too (`attend`), so it cannot have an adapter.
    adapter: None, or low-rank matrices beside the table.
    """

    def __init__(
        self, rows: int, size: int, *, axis: str, init: Initializer, decay: bool = True, tied: bool = False
    ) -> None:
        self.table = parameter((rows, size), (axis, "embed"), init, decay=decay)
        self.tokens, self.tied = axis == "vocab", tied
        self.virtual: VirtualTokens | None = None
        self.adapter: LowRank | Adapters | None = None

    def __call__(
        self, ids: Int[Array, "*B"], dtype: Any, *, outside: Literal["fill", "clip"] = "fill"
    ) -> Float[Array, "*B D"]:
        """Look up vectors by id. This is much cheaper than a one-hot product.

        outside: what an id beyond the table gives: NaN ("fill"), which makes the error visible, or the last row ("clip").
        """
        if self.virtual is None:
            rows, adapter = jnp.take(self.table[...], ids, axis=0, mode=outside), self.adapter_of("table")
            return (rows if adapter is None else rows + adapter.rows(ids, outside=outside)).astype(dtype)
        known = jnp.take(self.table[...], jnp.maximum(ids, 0), axis=0, mode=outside)
        virtual = jnp.take(self.virtual.table[...], jnp.maximum(-1 - ids, 0), axis=0, mode="clip")
        return jnp.where(ids[..., None] < 0, virtual, known).astype(dtype)

    def adaptable(self) -> Mapping[str, str]:
        """Return the table of tokens, see `t2t.nn.adapters.Adaptable`."""
        return {"": "table"} if self.tokens and not self.tied else {}

    def started_with(self, name: str) -> Mapping[str, Initializer]:
        """Return the first values of PEFT: the matrix of the rows is zero."""
        return {"start_a": ZEROS, "start_b": Normal(1.0)}

    def attend(self, x: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Return float32 logits: the product of `x` with every row of the table."""
        return matmul(x, self.table[...].T, wide=True)


def sinusoids(positions: Int[Array, "*B"], size: int) -> Float[Array, "*B D"]:
    """Return the float32 vectors of positions (Vaswani et al. 2017, section 3.5): sines in the first half, cosines in the second (Marian, PEGASUS).

    size: width of the vectors, an even number.

    Angles are whole numbers of 2**-32 turns, which overflow at a full turn: the sines of position 1000 are exact to 1e-6. A product of float32 numbers would be
    wrong by 6e-5.
    """
    turns = 10000.0 ** (-2 * np.arange(size // 2) / size) / (2 * np.pi)
    angles = positions.astype(jnp.uint32)[..., None] * np.round(turns * 2**32).astype(np.uint32)
    radians = jax.lax.bitcast_convert_type(angles, jnp.int32).astype(jnp.float32) * (2 * np.pi / 2**32)
    return jnp.concatenate([jnp.sin(radians), jnp.cos(radians)], axis=-1)
