"""The platform that a program is traced for. Kernels only run on their own platform."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import jax
from jax.sharding import Mesh

from t2t.sharding.rules import active_mesh

_assumed: contextvars.ContextVar[str | None] = contextvars.ContextVar("t2t_platform", default=None)


def platform() -> str:
    """Return the platform to trace for: "cpu", "gpu" or "tpu".

    This is the platform of `assume_platform`, else of the active mesh's devices (also if this machine does not have them), else JAX's default.
    """
    assumed, mesh = _assumed.get(), active_mesh()
    name = assumed or (mesh.devices.flat[0].platform if isinstance(mesh, Mesh) else jax.default_backend())
    return {"cuda": "gpu", "rocm": "gpu"}.get(name, name)


@contextlib.contextmanager
def assume_platform(name: str) -> Iterator[None]:
    """Trace for the given platform instead of this machine's, to count FLOPs or to compile ahead of time."""
    token = _assumed.set(name)
    try:
        yield
    finally:
        _assumed.reset(token)


@contextlib.contextmanager
def interpreted() -> Iterator[None]:
    """Trace TPU kernels in interpreter mode: a slow loop over their blocks that runs on any platform. For tests."""
    from jax.experimental.pallas import tpu as pltpu

    # True selects the generic Pallas interpreter. The typed parameters would simulate the memories and semaphores of a TPU.
    with assume_platform("tpu"), pltpu.force_tpu_interpret_mode(True):  # type: ignore[arg-type]
        yield
