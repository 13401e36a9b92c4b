"""Several low-rank adapters beside one kernel, of which each row of a batch uses one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from t2t.errors import UserError
from t2t.nn.initializers import ZEROS
from t2t.nn.linear import Linear, LinearAdapter, matmul
from t2t.nn.parameters import parameter
from t2t.types import Array as AnyArray

ADAPTERS = "adapters"
"""Name of the array in `Batch.extra`, and in a cache's "rows", with the number of the adapter that each row uses, [B]."""
NONE = -1
"""Number of the adapter of a row that uses none."""

_numbers: ContextVar[Int[AnyArray, "B"] | None] = ContextVar("adapters of rows", default=None)


@contextlib.contextmanager
def adapters_of_rows(numbers: Int[AnyArray, "B"] | None) -> Iterator[None]:
    """Set the number of the adapter that each row uses, for what is computed inside, in the same trace. None: no row uses one."""
    token = _numbers.set(numbers)
    try:
        yield
    finally:
        _numbers.reset(token)


class AdapterBank(LinearAdapter):
    """`x @ kernel + (own * (x @ a)) @ b + bias`, where `own` is 1 in the columns of the row's adapter and 0 in the others.

    a, b:  matrices of all adapters, side by side along the rank; `b` is multiplied by the adapters' scales.
    ranks: rank of each adapter; 0 if it does not change this layer.
    """

    def __init__(
        self, inputs: int, outputs: int, axes: tuple[str | None, str | None], *, ranks: tuple[int, ...]
    ) -> None:
        self.ranks = ranks
        self.a = parameter((inputs, sum(ranks)), (axes[0], None), ZEROS, trainable=False)
        self.b = parameter((sum(ranks), outputs), (None, axes[1]), ZEROS, trainable=False)

    def __call__(self, x: Float[Array, "B *L I"], linear: Linear) -> Float[Array, "B *L O"]:
        """Add the low-rank product of each row's adapter."""
        y, numbers = linear.product(x), _numbers.get()
        if numbers is None:
            return linear.biased(y)
        assert numbers.shape[0] == x.shape[0], "the first axis has the rows"
        owners = np.repeat(np.arange(len(self.ranks)), self.ranks)
        own = (jnp.asarray(numbers)[:, None] == owners).astype(x.dtype)
        low = matmul(x, self.a[...]) * own.reshape(x.shape[0], *[1] * (x.ndim - 2), -1)
        return linear.biased(y + matmul(low, self.b[...]))

    def merged(
        self, kernel: Float[Array, "*L I O"], bias: Float[Array, "*L O"] | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Raise UserError: no kernel computes what several adapters do."""
        raise UserError(
            "the rows of a batch use different adapters, which cannot be merged into one kernel. Nearest: one adapter."
        )
