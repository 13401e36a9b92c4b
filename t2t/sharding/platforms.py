"""Which kind of device a trace is for: a kernel of one kind is refused on the others."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import jax
from jax.sharding import Mesh

from t2t.sharding.rules import active_mesh

_assumed: contextvars.ContextVar[str | None] = contextvars.ContextVar("t2t_platform", default=None)


def platform() -> str:
    """Return "cpu", "gpu" or "tpu": what was assumed, else that of the active mesh's devices, which need not be there, else JAX's own."""
    assumed, mesh = _assumed.get(), active_mesh()
    name = assumed or (mesh.devices.flat[0].platform if isinstance(mesh, Mesh) else jax.default_backend())
    return {"cuda": "gpu", "rocm": "gpu"}.get(name, name)


@contextlib.contextmanager
def assume_platform(name: str) -> Iterator[None]:
    """Trace for another platform than the one at hand, to count or to compile ahead of time."""
    token = _assumed.set(name)
    try:
        yield
    finally:
        _assumed.reset(token)


@contextlib.contextmanager
def interpreted() -> Iterator[None]:
    """Trace TPU kernels as what they mean, a loop over their blocks that runs on any platform and is slow: for tests."""
    from jax.experimental.pallas import tpu as pltpu

    # True is Pallas' own interpreter. The parameters that are meant for here would simulate a TPU's memories and semaphores.
    with assume_platform("tpu"), pltpu.force_tpu_interpret_mode(True):  # type: ignore[arg-type]
        yield
