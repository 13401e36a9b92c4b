"""The step of training: its time, its rate beside the machine's, its memory, and what Python adds."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import jax

from t2t.launch.bench import synthetic
from t2t.launch.bench.ceilings import chip_of, published
from t2t.launch.bench.measurement import Measurement
from t2t.launch.bench.timing import repeat
from t2t.launch.bench.workload import Workload
from t2t.plan import flops
from t2t.plan.memory import bytes_a_device
from t2t.types import Batch

PART = "step"
CONVENTION = (
    "model FLOPs: three times those of the forward pass's matrix products, a multiply-add being two (6 a parameter and token, and attention);"
    " what a mask hides counts as computed: causal attention is not halved"
)


class _Sample(NamedTuple):
    dispatch: float
    seconds: float
    batch: int


def measure(work: Workload) -> Iterator[Measurement]:
    """Yield what the step of `t2t train` does, each waited for before the next begins."""
    program, experiment = work.program, work.experiment
    operations = flops.count(program)
    work.note(CONVENTION)
    host = work.batches()
    work.say(f"step: compiling for mesh {_mesh(program.mesh.shape)}")
    batches = [work.on_devices(batch) for batch in host]
    update = cast(jax.stages.Wrapped, program.step())
    state = program.create(experiment.seed)
    analysis = update.lower(state, batches[0]).compile().memory_analysis()
    held = {"state": bytes_a_device(state), "batch": bytes_a_device(batches[0])}
    turns = itertools.cycle(range(len(batches)))

    def sample() -> _Sample:
        nonlocal state
        which = next(turns)
        began = time.perf_counter()
        state, metrics = update(state, batches[which])
        returned = time.perf_counter()
        jax.block_until_ready((state, metrics))
        return _Sample(returned - began, time.perf_counter() - began, which)

    work.say("step: measuring")
    found = repeat(sample, work.limits, warmups=2)
    model = experiment.model
    settings = {name: getattr(model, name) for name in ("dtype", "remat", "attention") if hasattr(model, name)}
    yield Measurement(
        part=PART,
        name="step",
        unit="s",
        samples=tuple(it.seconds for it in found),
        details={"mesh": _mesh(program.mesh.shape), "batches": work.source, "microbatches": experiment.microbatches}
        | settings,
    )
    yield _rate("tokens", "tokens/s", found, [synthetic.tokens(batch) for batch in host], host)
    yield _rate("examples", "examples/s", found, [synthetic.examples(batch) for batch in host], host)
    rates = tuple(operations.model / it.seconds for it in found)
    counts: dict[str, Any] = {"model_flops": operations.model, "hardware_flops": operations.total}
    made = Measurement(part=PART, name="model FLOPs", unit="FLOP/s", samples=rates, details=counts)
    yield work.beside_matmul(made)
    chip = chip_of(jax.devices()[0])
    if chip is not None:
        peak = published(chip, work.dtype) * program.mesh.size
        yield Measurement(
            part=PART,
            name="MFU, published peak",
            unit="share",
            samples=tuple(rate / peak for rate in rates),
            share=made.median / peak,
            of=f"published {work.dtype} peak of {chip.name}",
            details={"peak": peak},
        )
    yield Measurement(part=PART, name="dispatch by Python", unit="s", samples=tuple(it.dispatch for it in found))
    yield Measurement(
        part=PART,
        name="temporaries a device",
        unit="bytes",
        samples=(float(analysis.temp_size_in_bytes),),
    )
    yield Measurement(
        part=PART,
        name="state and batch a device",
        unit="bytes",
        samples=(sum(held.values()),),
        details={**held, "donated": float(analysis.alias_size_in_bytes), **_allocated()},
    )


def _rate(name: str, unit: str, found: list[_Sample], counts: list[int], host: list[Batch]) -> Measurement:
    return Measurement(
        part=PART,
        name=name,
        unit=unit,
        samples=tuple(counts[it.batch] / it.seconds for it in found),
        details={"a_batch": sum(counts) / len(counts), "places": synthetic.places(host[0])},
    )


def _mesh(sizes: Any) -> str:
    return " x ".join(f"{name} {size}" for name, size in sizes.items() if size > 1) or "one device"


def _allocated() -> dict[str, float]:
    """Return what the device says of its memory, where it says anything."""
    try:
        statistics = jax.local_devices()[0].memory_stats() or {}
    except jax.errors.JaxRuntimeError:
        return {}
    return {name: float(statistics[name]) for name in ("bytes_in_use", "peak_bytes_in_use") if name in statistics}
