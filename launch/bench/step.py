"""Measure the training step: its time, its rate compared with the machine's limits, its memory, and the overhead of Python."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import jax

from t2t.launch.bench import synthetic
from t2t.launch.bench.ceilings import chip_of, published
from t2t.launch.bench.measurement import Details, Measurement
from t2t.launch.bench.timing import repeat
from t2t.launch.bench.workload import Workload
from t2t.plan import flops
from t2t.plan.memory import bytes_a_device

PART = "step"
CONVENTION = (
    "model FLOPs: three times the matrix products of the forward pass, where a multiply-add is two (6 per parameter and token, plus attention);"
    " masked positions count: causal attention is not halved"
)


class _Sample(NamedTuple):
    dispatch: float
    seconds: float
    tokens: float
    examples: int


def measure(work: Workload) -> Iterator[Measurement]:
    """Yield the measurements of the step of `t2t train`. Each step completes before the next one starts."""
    program, experiment = work.program, work.experiment
    operations = flops.count(program)
    work.note(CONVENTION)
    host = work.batches()
    work.log(f"step: compiling for mesh {_mesh(program.mesh.shape)}")
    batches = [work.on_devices(batch) for batch in host]
    update = cast(jax.stages.Wrapped, program.step())
    state = jax.block_until_ready(program.create(experiment.seed))
    analysis = update.lower(state, batches[0]).compile().memory_analysis()
    examples = [synthetic.examples(batch) for batch in host]
    turns = itertools.cycle(range(len(batches)))

    def sample() -> _Sample:
        nonlocal state
        which = next(turns)
        began = time.perf_counter()
        state, metrics = update(state, batches[which])
        returned = time.perf_counter()
        jax.block_until_ready((state, metrics))
        seconds = time.perf_counter() - began
        return _Sample(returned - began, seconds, float(metrics["tokens"]), examples[which])

    work.log("step: measuring")
    found = repeat(sample, work.limits, warmups=2)
    model = experiment.model
    settings: Details = {
        "mesh": _mesh(program.mesh.shape),
        "batches": work.source,
        "microbatches": experiment.microbatches,
        "dtype": model.dtype,
        **{name: str(model.execution[name]) for name in ("remat", "attention") if name in model.execution},
    }
    yield Measurement(part=PART, name="step", unit="s", samples=tuple(it.seconds for it in found), details=settings)
    places = synthetic.places(host[0])
    yield _rate("tokens", [it.tokens for it in found], found, places)
    yield _rate("examples", [it.examples for it in found], found, places)
    rates = tuple(operations.model / it.seconds for it in found)
    counts: dict[str, Any] = {"model_flops": operations.model, "hardware_flops": operations.total}
    model_flops = Measurement(part=PART, name="model FLOPs", unit="FLOP/s", samples=rates, details=counts)
    yield work.with_matmul_share(model_flops)
    chip = chip_of(jax.devices()[0])
    if chip is not None:
        peak = published(chip, work.dtype) * program.mesh.size
        yield Measurement(
            part=PART,
            name="MFU, published peak",
            unit="share",
            samples=tuple(rate / peak for rate in rates),
            share=model_flops.median / peak,
            of=f"published {work.dtype} peak of {chip.name}",
            details={"peak": peak},
        )
    yield Measurement(part=PART, name="dispatch by Python", unit="s", samples=tuple(it.dispatch for it in found))
    held: Details = {"state": bytes_a_device(state), "batch": bytes_a_device(batches[0]), **_allocated()}
    if analysis is not None:
        temporaries = float(analysis.temp_size_in_bytes)
        yield Measurement(part=PART, name="temporaries a device", unit="bytes", samples=(temporaries,))
        held["donated"] = float(analysis.alias_size_in_bytes)
    total = float(held["state"]) + float(held["batch"])
    yield Measurement(part=PART, name="state and batch a device", unit="bytes", samples=(total,), details=held)


def _rate(name: str, counts: Sequence[float], found: Sequence[_Sample], places: int) -> Measurement:
    return Measurement(
        part=PART,
        name=name,
        unit=f"{name}/s",
        samples=tuple(count / it.seconds for count, it in zip(counts, found, strict=True)),
        details={"a_batch": sum(counts) / len(counts), "places": places},
    )


def _mesh(sizes: Any) -> str:
    return " x ".join(f"{name} {size}" for name, size in sizes.items() if size > 1) or "one device"


def _allocated() -> dict[str, float]:
    """Return the device's memory statistics, if it has any."""
    try:
        statistics = jax.local_devices()[0].memory_stats() or {}
    except jax.errors.JaxRuntimeError:
        return {}
    return {name: float(statistics[name]) for name in ("bytes_in_use", "peak_bytes_in_use") if name in statistics}
