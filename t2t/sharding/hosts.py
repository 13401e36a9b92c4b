"""Which rows of a global batch each process holds."""

from __future__ import annotations

from dataclasses import dataclass

import jax
from jax.sharding import NamedSharding, PartitionSpec

from t2t.errors import UserError


@dataclass(frozen=True)
class Share:
    """A part of the rows: number `index` of `count` equal, contiguous ones. Processes whose devices hold the same rows have the same share."""

    index: int
    count: int
    leads: bool = True
    """Whether this process is the first of those with this share: it alone writes what is one for all of them."""


def share_of_rows(sharding: NamedSharding, rows: int, process: int | None = None) -> Share:
    """Return the share of an array's first axis that a process's devices hold; of this process by default.

    Where the mesh puts `tensor` or `context` across processes, several processes have one share: each reads the same rows.
    Raises UserError where a process would hold rows that do not lie together.
    """
    process = jax.process_index() if process is None else process
    spans: dict[int, set[tuple[int, int]]] = {}
    of_rows = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[:1]))
    for device, index in of_rows.devices_indices_map((rows,)).items():
        start, stop, _ = index[0].indices(rows)
        spans.setdefault(_process_of(device), set()).add((start, stop))
    first, last = min(start for start, _ in spans[process]), max(stop for _, stop in spans[process])
    size = sum(stop - start for start, stop in spans[process])
    if size != last - first or first % size or rows % size:
        raise UserError(
            f"mesh {' x '.join(f'{name}={n}' for name, n in sharding.mesh.shape.items())} (--mesh): process {process} would hold rows that are"
            " not together. Nearest: a mesh whose data and fsdp axes are multiples of the processes, or divide them."
        )
    leads = process == min(other for other, held in spans.items() if held == spans[process])
    return Share(first // size, rows // size, leads)


def _process_of(device: jax.Device) -> int:
    return device.process_index
