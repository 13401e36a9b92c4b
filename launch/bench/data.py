"""Measure the data pipeline alone, and how long training waits for it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

import jax

from t2t.data.prefetch import DeviceBatches
from t2t.launch.bench import synthetic
from t2t.launch.bench.measurement import Details, Measurement
from t2t.launch.bench.timing import repeat
from t2t.launch.bench.workload import Workload
from t2t.train.meter import RUNNING

PART = "data"
WARMUPS = 4
"""Batches to discard: a thread prefetches some, and the first batches fill the shuffle buffers."""
WINDOW = 10
"""Training steps per sample of the waiting time. --log-every is used if it is smaller."""


def measure(work: Workload) -> Iterator[Measurement]:
    """Yield the rates of the recipe's own task, and the share of training time that waits for data."""
    work.log(f"data: opening {work.experiment.data.task}")
    began = time.perf_counter()
    host = work.open_data()
    data = DeviceBatches(
        host,
        work.program.batch_sharding(),
        extra=work.program.extra_shardings(host.layout),
    )
    try:
        next(host)
        opened = time.perf_counter() - began
        yield Measurement(part=PART, name="first batch, with graphs built", unit="s", samples=(opened,))
        work.log("data: the pipeline alone")
        yield from _alone(work, data)
        work.log("data: in a training loop")
        yield _waiting(work, data)
    finally:
        data.close()


def _alone(work: Workload, data: DeviceBatches) -> Iterator[Measurement]:
    counts: list[tuple[int, int]] = []
    cores: list[float] = []

    def sample() -> float:
        began, busy = time.perf_counter(), time.process_time()
        batch = next(data.host)
        seconds = time.perf_counter() - began
        cores.append(time.process_time() - busy)
        counts.append((synthetic.tokens(batch), synthetic.places(batch)))
        return seconds

    found = repeat(sample, work.limits, warmups=WARMUPS)
    kept, busy = counts[WARMUPS:], sum(cores[WARMUPS:])
    total = sum(tokens for tokens, _ in kept)
    rates = tuple(tokens / seconds for (tokens, _), seconds in zip(kept, found, strict=True))
    task: Details = {"task": work.experiment.data.task, "packed": work.experiment.data.pack}
    yield Measurement(
        part=PART,
        name="pipeline, this process",
        unit="tokens/s",
        samples=rates,
        details={**task, "tokens": total, "seconds": sum(found)},
    )
    # TensorFlow's threads use several cores at once. The CPU time of a single batch is unknown, so this is one number for all batches.
    yield Measurement(
        part=PART,
        name="pipeline, a core",
        unit="tokens/core-second",
        samples=(total / max(busy, 1e-9),),
        details={**task, "core_seconds": busy, "cores_busy": busy / max(sum(found), 1e-9)},
    )
    yield Measurement(
        part=PART,
        name="places filled",
        unit="share",
        samples=tuple(tokens / places for tokens, places in kept),
        details=task,
    )


def _waiting(work: Workload, data: DeviceBatches) -> Measurement:
    update, state = work.program.step(), jax.block_until_ready(work.program.create(work.experiment.seed))
    window = min(WINDOW, work.experiment.log_every)

    def sample() -> float:
        nonlocal state
        waited, began = data.wait_seconds, time.perf_counter()
        running: deque[object] = deque()
        for _ in range(window):
            state, metrics = update(state, next(data))
            running.append(metrics)
            if len(running) > RUNNING:  # as in training
                jax.block_until_ready(running.popleft())
        jax.block_until_ready((state, metrics))
        return min(1.0, (data.wait_seconds - waited) / (time.perf_counter() - began))

    found = repeat(sample, work.limits)
    return Measurement(
        part=PART, name="training waits for data", unit="share", samples=tuple(found), details={"steps": window}
    )
