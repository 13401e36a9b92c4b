"""Measure saving and restoring of checkpoints, compared with the disk."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t2t.checkpoint import CheckpointConfig, Checkpoints
from t2t.launch.bench.measurement import Measurement
from t2t.launch.bench.timing import repeat
from t2t.launch.bench.workload import Workload
from t2t.train.state import TrainState

PART = "checkpoint"
PIECE = 2**26
"""Bytes of the plain file to write or read at a time."""


class _Sample(NamedTuple):
    blocking: float
    written: float
    restored: float
    wrote: float
    read: float
    on_disk: int


def measure(work: Workload) -> Iterator[Measurement]:
    """Yield the times of saving and restoring a whole state. A plain file of the same size, in the same directory, is measured right after each sample."""
    program = work.program
    work.log("checkpoint: creating a state")
    state = noisy(program.create(work.experiment.seed))
    size = state_bytes(state)
    with tempfile.TemporaryDirectory(prefix="t2t-bench-", dir=work.scratch) as name:
        directory = Path(name)
        step = 0

        def sample() -> _Sample:
            nonlocal step
            step += 1
            with Checkpoints(
                directory / "checkpoints", CheckpointConfig(every=1, keep_last=1, keep_best=0)
            ) as checkpoints:
                began = time.perf_counter()
                checkpoints.save(step, state)
                blocking = time.perf_counter() - began
                checkpoints.wait()
                written = time.perf_counter() - began
                began = time.perf_counter()
                jax.block_until_ready(checkpoints.restore(step, program.abstract_state()))
                restored = time.perf_counter() - began
            wrote, read = plain_file(directory / "plain", size)
            return _Sample(blocking, written, restored, wrote, read, _on_disk(directory / "checkpoints" / str(step)))

        work.log(f"checkpoint: saving and restoring {size:,} bytes in {directory}")
        found = repeat(sample, work.limits)
    sizes = {"bytes": size, "bytes_on_disk": found[-1].on_disk}
    for name, seconds in (
        ("save, training waits", [it.blocking for it in found]),
        ("save, until written", [it.written for it in found]),
        ("restore", [it.restored for it in found]),
    ):
        yield Measurement(part=PART, name=name, unit="s", samples=tuple(seconds), details={**sizes})
    for name, ours, theirs, of in (
        ("save", [it.written for it in found], [it.wrote for it in found], "plain write and fsync"),
        ("restore", [it.restored for it in found], [it.read for it in found], "plain read"),
    ):
        plain = size / float(np.median(theirs))
        rate = size / float(np.median(ours))
        yield Measurement(
            part=PART,
            name=f"{name}, bytes",
            unit="bytes/s",
            samples=tuple(size / it for it in ours),
            share=rate / plain,
            of=of,
            details={**sizes, "plain": plain},
        )
    work.note("checkpoint: the restore and the plain read use the operating system's page cache")


def noisy(state: TrainState) -> TrainState:
    """Return the state with pseudo-random numbers in all floating-point arrays, because the zeros of an optimizer compress too well."""

    def one(leaf: jax.Array) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        # A multiplicative hash of each index: a random number generator for each array takes long to compile.
        hashed = jax.lax.iota(jnp.uint32, leaf.size) * jnp.uint32(2654435761)
        hashed = (hashed ^ (hashed >> 15)) * jnp.uint32(2246822519)
        return (hashed.astype(jnp.float32) / 2.0**32 + 0.5).reshape(leaf.shape).astype(leaf.dtype)

    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    return jax.jit(lambda state: jax.tree.map(one, state), out_shardings=shardings)(state)


def state_bytes(state: TrainState) -> int:
    """Return the bytes of a state's arrays without random keys. Copies on several devices count once."""
    leaves = [leaf for leaf in jax.tree.leaves(state) if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def plain_file(path: Path, size: int) -> tuple[float, float]:
    """Return the seconds of writing `size` random bytes to a file with fsync, and of reading them back."""
    piece = os.urandom(min(size, PIECE))
    began = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        left = size
        while left > 0:
            left -= file.write(memoryview(piece)[: min(left, len(piece))])
        os.fsync(file.fileno())
    wrote = time.perf_counter() - began
    began = time.perf_counter()
    room = bytearray(len(piece))
    with path.open("rb", buffering=0) as file:
        while file.readinto(room):
            pass
    read = time.perf_counter() - began
    path.unlink()
    return wrote, read


def _on_disk(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
