"""Copy batches to the devices ahead of time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
from jax.sharding import Sharding

from t2t.sharding import Share
from t2t.types import Array, Batch

if TYPE_CHECKING:
    from t2t.data.pipeline import BatchIterator


def to_device(
    batch: Batch, sharding: Sharding, batch_size: int, *, first: int = 0, extra: Mapping[str, Sharding] | None = None
) -> Batch:
    """Return the global batch of [batch_size, ...] arrays. The devices of this host get their parts.

    batch:    the rows of this host.
    sharding: sharding of the token arrays, [B L].
    first:    index of this host's first row in the global batch.
    extra:    shardings of the arrays of `Batch.extra`, by name.
    """

    def place(array: Array, sharding: Sharding = sharding) -> jax.Array:
        def part(index: Any) -> Array:
            start, stop, _ = index[0].indices(batch_size)
            return array[(slice(start - first, stop - first), *index[1:])]

        return jax.make_array_from_callback((batch_size, *array.shape[1:]), sharding, part)

    placed = {name: place(array, (extra or {})[name]) for name, array in batch.extra.items()}
    return replace(jax.tree.map(place, replace(batch, extra={})), extra=placed)


class DeviceBatches:
    """Iterator of global batches on the devices. It copies up to `ahead` batches while the caller computes.

    Copies to devices are asynchronous, so this needs no thread besides that of the host iterator. `position` counts only
    batches that the caller got, not those already on the devices.

    share: the part of the rows of each global batch that this process reads; None for all. Among processes with the same part, the one that leads
           returns the position.
    ahead: number of batches to copy ahead of time.
    extra: shardings of the arrays of `Batch.extra`, by name.
    """

    def __init__(
        self,
        host: BatchIterator,
        sharding: Sharding,
        *,
        share: Share | None = None,
        ahead: int = 2,
        extra: Mapping[str, Sharding] | None = None,
    ) -> None:
        from t2t.data.pipeline import KEPT

        if not 0 <= ahead < KEPT:
            raise ValueError(f"ahead={ahead}: must be 0 to {KEPT - 1}")
        self._host = host
        self._sharding = sharding
        self._share = share or Share(0, 1)
        self._extra = extra
        self._ahead = ahead
        self._placed: deque[Batch] = deque()
        self.wait_seconds = 0.0
        """Total seconds that callers of `next` have waited for data."""

    @property
    def host(self) -> BatchIterator:
        """The iterator of this host's rows."""
        return self._host

    def __iter__(self) -> DeviceBatches:
        return self

    def __next__(self) -> Batch:
        """Return the next global batch. Raises the errors of the host iterator, after all batches before them were returned."""
        began = time.perf_counter()
        try:
            if not self._placed:
                self._place()
            batch = self._placed.popleft()
            self._top_up()
            return batch
        finally:
            self.wait_seconds += time.perf_counter() - began

    @property
    def upcoming_rows(self) -> int:
        """Rows of the global batch that `next` returns."""
        return self._host.rows(self._host.returned - len(self._placed))

    def position(self) -> dict[str, bytes]:
        """Return the position after the last returned batch, see `BatchIterator.position`. Empty if another process returns it."""
        return self._host.position(unused=len(self._placed)) if self._share.leads else {}

    def restore(self, position: dict[str, bytes]) -> None:
        """Go to a position, see `BatchIterator.restore`."""
        self._placed.clear()
        self._host.restore(position)

    def close(self) -> None:
        """Close the host iterator and drop the batches."""
        self._placed.clear()
        self._host.close()

    def _place(self) -> None:
        batch = next(self._host)
        own = len(batch.targets)  # batches may grow
        share = self._share
        self._placed.append(
            to_device(batch, self._sharding, own * share.count, first=own * share.index, extra=self._extra)
        )

    def _top_up(self) -> None:
        """Copy the batches that are available without waiting. An error or the end of the data is raised by a later `next`."""
        while len(self._placed) < self._ahead and self._host.available():
            self._place()
