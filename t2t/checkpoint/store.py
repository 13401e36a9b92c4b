"""Read and write with Orbax, which only this module uses: trees of arrays and small files are written as one unit and read in parts."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any, Protocol

import jax
from etils import epath
from orbax.checkpoint import v1 as ocp

from t2t.checkpoint.quiet import drop_late_errors, held_back
from t2t.checkpoint.scan import METADATA, read_error, scan
from t2t.checksums import is_directory
from t2t.errors import UserError

_PARTIAL = ".orbax-checkpoint-tmp"
_IN_FLIGHT = 1 << 30
"""Maximum number of bytes of arrays that are written at a time."""
_CHUNK = 128 << 20
"""Number of bytes of an array that are compressed as one piece."""
_SLICE = 1 << 20
"""Minimum number of bytes of its part of a replicated array for each replica to write this part. One replica writes the whole of a smaller array."""


class Pending(Protocol):
    """A write that is running."""

    def result(self, timeout: float | None = None) -> None:
        """Wait until the unit is committed. Raise the error of the write if there is one."""


class _Files:
    """Small files that are part of the unit. Each process adds its own. Names must differ between processes."""

    def __init__(self, files: Mapping[str, bytes]):
        self._files = dict(files)

    async def save(self, directory: ocp.path.PathAwaitingCreation) -> Awaitable[None]:
        async def write() -> None:
            place = epath.Path(await directory.await_creation())
            for name, content in self._files.items():
                (place / name).write_bytes(content)

        return write()

    async def load(self, directory: ocp.path.Path) -> Awaitable[None]:
        raise NotImplementedError("files are read without Orbax")


def start_write(path: epath.Path, trees: Mapping[str, Any], files: Mapping[str, Mapping[str, bytes]]) -> Pending:
    """Start to write a directory with a folder for each of `trees` (nested dicts of arrays) and of `files`.

    Returns when the arrays are copied from the devices, so that they may be donated. The directory gets its name when everything is written.
    Call this on all processes.
    """
    drop_late_errors()
    context = ocp.Context()
    # In the background, Orbax reports a directory that cannot be created only after many minutes.
    context.async_options.create_directories_asynchronously = False
    # This limits the memory of a write, in addition to the arrays, to about one array. Orbax rejects an array that is larger than the limit.
    largest = max((leaf.nbytes for leaf in jax.tree.leaves(dict(trees))), default=0)
    context.memory_options.write_concurrent_bytes = max(_IN_FLIGHT, largest + 1)
    context.array_options.saving.storage_options.chunk_byte_size = _CHUNK
    # Otherwise each replica slices each norm and bias, and each new shape is compiled: this takes longer than the write.
    context.array_options.saving.min_slice_bytes_for_replica_parallel = _SLICE
    with context:
        return ocp.save_checkpointables_async(path, {**trees, **{name: _Files(found) for name, found in files.items()}})


def committed(directory: epath.Path) -> dict[int, epath.Path]:
    """Return step -> directory of all committed steps, in ascending order."""
    if not is_directory(directory):
        return {}
    with held_back(show=False):  # damage of a step is reported when it is read
        found = list(ocp.path.step.standard_name_format().find_all(directory))
    return dict(sorted((item.step, epath.Path(item.path)) for item in found))


def leftovers(directory: epath.Path) -> list[epath.Path]:
    """Return the directories of interrupted writes."""
    return [entry for entry in directory.iterdir() if _PARTIAL in entry.name] if directory.is_dir() else []


def shapes(path: epath.Path, name: str) -> dict[str, Any]:
    """Return the nested dict of ShapeDtypeStruct of a saved tree. Raises UserError if it cannot be read."""
    if not (path / METADATA).exists():
        raise UserError(f"{path}: not a checkpoint, it has no {METADATA}")
    if not (path / name).is_dir():
        raise UserError(f"{path}: the checkpoint is damaged, {path / name} is missing")
    scan(path / name, data=False)
    with held_back() as held:
        try:
            tree = ocp.metadata(path, checkpointable_name=name).metadata
        except Exception as error:
            raise read_error(path / name, error) from error
        if not isinstance(tree, dict):  # Orbax logs the error and continues
            raise read_error(path / name, None, *held.texts)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def read(path: epath.Path, name: str, abstract: dict[str, Any]) -> dict[str, Any]:
    """Return the arrays of a tree that are in `abstract`, a nested dict of ShapeDtypeStruct, with its shardings and dtypes.

    Reads nothing else. Raises UserError on damage, which names the file if it is known. Call this on all processes.
    """
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    scan(path / name, data=True)
    try:
        with held_back(), context:
            return ocp.load(path, abstract, checkpointable_name=name)
    except Exception as error:
        raise read_error(path / name, error) from error
