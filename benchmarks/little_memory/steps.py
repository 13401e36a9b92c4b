"""Memory and time of training steps: what `t2t plan` estimates, what the compiled step needs, and what the operating system reports.

Each point runs in its own process. The resident memory is measured as in `benchmarks.scaling.memory`: its peak during some steps, minus what the process has after it
has compiled the step. Times are of one process that holds all ways to fine-tune a model and takes one step of each in turn.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import jax

from benchmarks.scaling.experiments import device_batch
from benchmarks.scaling.memory import ENVIRONMENT, HOST, reset_peak, resident, settled_memory, without_code
from benchmarks.scaling.part import Part, Point, Rows, Table, Values
from t2t.launch.experiment import experiment_of, recipe_of
from t2t.plan.estimate import estimate
from t2t.plan.hlo import HloModule
from t2t.plan.memory import compiled_memory
from t2t.train.program import Program
from t2t.types import Batch

PARTS = ("parameters", "gradients", "optimizer", "activations", "temporaries")


def program_of(run: str, options: list[str]) -> Program:
    """Return the program of a training that starts from a run. options: those of `t2t train`."""
    recipe = f"from:{run}"
    experiment = experiment_of(recipe_of(recipe)(), options, prog="benchmarks.little_memory", about="", own=())
    return Program.of(experiment, experiment.mesh.build(jax.devices()[:1]))


def batch_of(program: Program) -> Batch:
    """Return a batch of random ids on the devices, with targets that the model scores."""
    batch, config = device_batch(program), program.experiment.model
    return dataclasses.replace(batch, targets=batch.targets % config.num_outputs(program.experiment.data.inputs_length))


def measure(run: str, ways: Mapping[str, list[str]], rounds: int) -> Values:
    """Return the memory of one way to fine-tune, or the seconds of the steps of several. ways: name -> options of `t2t train`."""
    if len(ways) > 1:
        return _seconds(run, ways, rounds)
    return _memory(run, next(iter(ways.values())), rounds)


def _memory(run: str, options: list[str], rounds: int) -> Values:
    program = program_of(run, options)
    estimated, batch = estimate(program, HOST).memory, batch_of(program)
    step = program.compiled(program.abstract_batch())
    compiled = compiled_memory(program, HloModule(step.as_text() or ""), step.memory_analysis())
    before = settled_memory()
    state = jax.block_until_ready(program.create(0))
    settled_memory()
    reset_peak()
    for _ in range(rounds):
        state, _ = jax.block_until_ready(step(state, batch))
    return {
        "estimate": {**vars(estimated), "total": estimated.total},
        "compiled": {**vars(compiled), "total": compiled.total},
        "peak": resident("VmHWM") - before + estimated.batch,
    }


def _seconds(run: str, ways: Mapping[str, list[str]], rounds: int) -> Values:
    runs: dict[str, Any] = {}
    for name, options in ways.items():
        program = program_of(run, options)
        runs[name] = [program.compiled(program.abstract_batch()), program.create(0), batch_of(program)]
    wall: dict[str, list[float]] = {name: [] for name in runs}
    processor: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, held in runs.items():
            step, state, batch = held
            begun = time.perf_counter(), time.process_time()
            held[1], _ = jax.block_until_ready(step(state, batch))
            if turn:  # the first one warms up
                wall[name].append(time.perf_counter() - begun[0])
                processor[name].append(time.process_time() - begun[1])
    return {"wall": wall, "processor": processor}


def points(runs: Mapping[str, tuple[str, Mapping[str, list[str]]]], rounds: int) -> dict[str, Point]:
    """Return a point for the memory of each way to fine-tune, and one for the times of each model. runs: suite -> (run, name of the way -> options)."""
    found = {}
    for suite, (run, ways) in runs.items():
        for name, options in ways.items():
            arguments = {"run": run, "ways": {name: options}, "rounds": 3}
            found[f"{suite} {name}"] = Point(arguments=arguments, environment=ENVIRONMENT, cores=1)
        arguments = {"run": run, "ways": {name: list(options) for name, options in ways.items()}, "rounds": rounds}
        found[f"{suite} times"] = Point(arguments=arguments, environment={"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"})
    return found


def table(rows: Rows) -> Table:
    """Return the table of the memory, in MB."""
    lines = []
    for name, values in rows.items():
        if "peak" not in values:
            continue
        estimated, compiled, peak = values["estimate"], values["compiled"], values["peak"]
        totals = [without_code(estimated), without_code(compiled), peak]
        cells = [*(estimated[part] for part in PARTS), *totals]
        lines.append(
            [name, *(f"{cell / 1e6:,.0f}" for cell in cells), *(f"{total / peak:.2f}" for total in totals[:2])]
        )
    header = ("", *PARTS, "estimate", "compiled", "measured", "est./meas.", "comp./meas.")
    return Table(header, lines)


PART = Part(
    name="steps",
    about=__doc__ or "",
    points=lambda rounds: {},
    measure=measure,
    table=table,
    draw=lambda figure, rows: None,
)
