"""Batches that are on the devices before they are asked for."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
from jax.sharding import Sharding

from t2t.types import Array, Batch

if TYPE_CHECKING:
    from t2t.data.pipeline import BatchIterator


def to_device(
    batch: Batch, sharding: Sharding, batch_size: int, *, first: int = 0, extra: Mapping[str, Sharding] | None = None
) -> Batch:
    """Return the global batch, [batch_size, ...] arrays of which this host's devices get their part.

    batch:    this host's rows, those from row `first` of the global batch on.
    sharding: of the arrays of tokens, [B L]. extra: of those of `Batch.extra`, by name; none is needed where there are none.
    """

    def place(array: Array, sharding: Sharding = sharding) -> jax.Array:
        def part(index: Any) -> Array:
            start, stop, _ = index[0].indices(batch_size)
            return array[(slice(start - first, stop - first), *index[1:])]

        return jax.make_array_from_callback((batch_size, *array.shape[1:]), sharding, part)

    placed = {name: place(array, (extra or {})[name]) for name, array in batch.extra.items()}
    return replace(jax.tree.map(place, replace(batch, extra={})), extra=placed)


class DeviceBatches:
    """Iterator of global batches on the devices, `ahead` of them on their way while the caller computes.

    Copies to devices are asynchronous; no thread is needed beside the host iterator's own. `position` is that of the
    batches the caller has had, whatever is on the devices already.

    first: the global batch's row that the host's rows begin with.
    extra: shardings of the arrays of `Batch.extra`, by name.
    leads: whether this process tells the position, of those that read the same rows.
    """

    def __init__(
        self,
        host: BatchIterator,
        sharding: Sharding,
        batch_size: int,
        *,
        first: int = 0,
        leads: bool = True,
        ahead: int = 2,
        extra: Mapping[str, Sharding] | None = None,
    ) -> None:
        from t2t.data.pipeline import KEPT

        if not 0 <= ahead < KEPT:
            raise ValueError(f"ahead={ahead}: must be 0 to {KEPT - 1}")
        self._host = host
        self._sharding = sharding
        self._batch_size = batch_size
        self._first = first
        self._leads = leads
        self._extra = extra
        self._ahead = ahead
        self._placed: deque[Batch] = deque()
        self.wait_seconds = 0.0
        """Seconds that callers of `next` have waited for data, in all."""

    @property
    def host(self) -> BatchIterator:
        """The iterator of this host's rows."""
        return self._host

    def __iter__(self) -> DeviceBatches:
        return self

    def __next__(self) -> Batch:
        """Return the next global batch. Raises what the host's iterator raises, once what came before is handed out."""
        began = time.perf_counter()
        try:
            if not self._placed:
                self._place()
            batch = self._placed.popleft()
            self._top_up()
            return batch
        finally:
            self.wait_seconds += time.perf_counter() - began

    def position(self) -> dict[str, bytes]:
        """Return the place after the last batch returned, see `BatchIterator.position`; nothing where another process tells it."""
        return self._host.position(unused=len(self._placed)) if self._leads else {}

    def restore(self, position: dict[str, bytes]) -> None:
        """Go to a place, see `BatchIterator.restore`."""
        self._placed.clear()
        self._host.restore(position)

    def close(self) -> None:
        """End the host's iterator and let go of the batches."""
        self._placed.clear()
        self._host.close()

    def _place(self) -> None:
        self._placed.append(
            to_device(next(self._host), self._sharding, self._batch_size, first=self._first, extra=self._extra)
        )

    def _top_up(self) -> None:
        """Put on the devices what is there already; a fault or the end is left to the call that comes to it."""
        while len(self._placed) < self._ahead and self._host.available():
            self._place()
