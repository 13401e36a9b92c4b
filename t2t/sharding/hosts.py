"""The rows of a global batch that each process holds."""

from __future__ import annotations

from dataclasses import dataclass

import jax
from jax.sharding import NamedSharding, PartitionSpec

from t2t.errors import UserError


@dataclass(frozen=True)
class Share:
    """Part `index` of `count` equal, contiguous parts of the rows. Processes whose devices hold the same rows have the same share."""

    index: int
    count: int
    leads: bool = True
    """Whether this process is the first one with this share. Only this process writes files for the share."""


def share_of_rows(sharding: NamedSharding, rows: int, process: int | None = None) -> Share:
    """Return the share of an array's first axis that the devices of a process hold.

    process: index of the process; default: this process.

    If the `tensor` or `context` axis of the mesh spans several processes, these processes have the same share: each reads the same rows.

    Raises UserError if the rows of a process are not contiguous.
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
            f"mesh {' x '.join(f'{name}={n}' for name, n in sharding.mesh.shape.items())} (--mesh): the rows of process {process} are"
            " not contiguous. Nearest: a mesh whose data and fsdp sizes are multiples of the number of processes, or divide it."
        )
    leads = process == min(other for other, held in spans.items() if held == spans[process])
    return Share(first // size, rows // size, leads)


def _process_of(device: jax.Device) -> int:
    return device.process_index
