"""Measure tracing, lowering and compiling of the training step, without caches."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import NamedTuple, cast

import jax
from jax.experimental.compilation_cache import compilation_cache

from t2t.launch.bench import synthetic
from t2t.launch.bench.measurement import Measurement
from t2t.launch.bench.timing import repeat
from t2t.launch.bench.workload import Workload
from t2t.train.program import Program

PART = "compile"


class _Sample(NamedTuple):
    trace: float
    lower: float
    compile: float
    code: float


def measure(work: Workload) -> Iterator[Measurement]:
    """Yield the seconds of tracing, lowering and compiling the step. All caches are cleared before each sample."""
    work.log("compile: the step")
    program = work.program
    batch = work.on_devices(synthetic.batch(work.experiment))
    abstract = program.abstract_state()

    def sample() -> _Sample:
        jax.clear_caches()
        update = cast(jax.stages.Wrapped, Program.of(work.experiment, program.mesh).step())
        times = [time.perf_counter()]
        traced = update.trace(abstract, batch)
        times.append(time.perf_counter())
        lowered = traced.lower()
        times.append(time.perf_counter())
        compiled = lowered.compile()
        times.append(time.perf_counter())
        analysis = compiled.memory_analysis()
        code = float(analysis.generated_code_size_in_bytes) if analysis is not None else 0.0
        return _Sample(times[1] - times[0], times[2] - times[1], times[3] - times[2], code)

    with no_cache():
        found = repeat(sample, work.limits, warmups=0, least=1)
    for name in ("trace", "lower", "compile"):
        yield Measurement(part=PART, name=name, unit="s", samples=tuple(getattr(it, name) for it in found))
    yield Measurement(part=PART, name="in all", unit="s", samples=tuple(sum(it[:3]) for it in found))
    if found[-1].code:
        yield Measurement(part=PART, name="program", unit="bytes", samples=(found[-1].code,))


@contextlib.contextmanager
def no_cache() -> Iterator[None]:
    """Disable JAX's compilation cache inside."""
    before = getattr(jax.config, "jax_enable_compilation_cache")  # noqa: B009
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # JAX checks only once whether the cache is enabled
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()
