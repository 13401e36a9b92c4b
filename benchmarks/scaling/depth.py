"""Compile time by depth. Layers run in a scan, so a deep model should compile as fast as a shallow one.

CPU seconds are shown too: other work on the machine affects them less than wall time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import jax

from benchmarks.scaling.experiments import KINDS, experiment
from benchmarks.scaling.part import Part, Point, Rows, Table, Values, devices
from benchmarks.scaling.showing import lines
from benchmarks.scaling.timing import median
from t2t.plan.plan import prepare
from t2t.plan.topology import ENVIRONMENT, Topology
from t2t.train.program import Program
from t2t.train.state import create_state

LAYERS = (12, 24, 48, 96)
TARGETS = ("cpu", "v5e:2x2")
WITHIN = 1.3
STAGES = ("trace", "lower", "compile", "create")
TIMES = (*STAGES, "processor")
"""Measured times in seconds. "processor" is the CPU time of all threads in the first three stages."""


def points(rounds: int) -> Mapping[str, Point]:
    """Return one point per target, kind of model and depth. Targets are this machine, and TPUs (compiled ahead of time)."""
    return {
        f"{target} {kind} {layers}": Point(
            arguments={
                "target": target,
                "kind": kind,
                "num_layers": layers,
                "rounds": rounds if target == "cpu" else 1,
            },
            environment=devices(1) if target == "cpu" else ENVIRONMENT,
        )
        for target in TARGETS
        for kind in KINDS
        for layers in LAYERS
    }


def measure(target: str, kind: str, num_layers: int, rounds: int) -> Values:
    """Return the seconds to trace, lower and compile the step, the seconds to compile the state's creation, and the size of the step in lines."""
    small: dict[str, Any] = {"num_layers": num_layers, "d_model": 128, "num_heads": 4, "d_ff": 512, "vocab_size": 1024}
    if target == "cpu":
        config = experiment(kind, batch_size=8, length=128, **small)
        program = Program.of(config, config.mesh.build(jax.devices()[:1]))
    else:
        topology = Topology.parse(target)
        config = experiment(kind, batch_size=8, length=128, mesh={"data": 1, "fsdp": topology.size}, **small)
        program = prepare(config, topology, topology.devices())
    taken = [_stages(program) for _ in range(rounds)]
    first = taken[0]
    return {**first, **{stage: median([times[stage] for times in taken]) for stage in TIMES}, "all": taken}


def _stages(program: Program) -> Values:
    jax.clear_caches()
    state, batch = program.abstract_state(), program.abstract_batch()
    step: Any = program.step()
    start, at = time.process_time(), [time.perf_counter()]
    traced = step.trace(state, batch)
    at.append(time.perf_counter())
    lowered = traced.lower()
    at.append(time.perf_counter())
    compiled = lowered.compile()
    at.append(time.perf_counter())
    processor = time.process_time() - start
    create = jax.jit(lambda seed: create_state(program.model, program.transform, seed), out_shardings=program.shardings)
    create.lower(0).compile()
    at.append(time.perf_counter())
    sizes = {
        "jaxpr": str(traced.jaxpr).count("\n"),
        "stablehlo": lowered.as_text().count("\n"),
        "hlo": (compiled.as_text() or "").count("\n"),
    }
    seconds = {stage: b - a for stage, a, b in zip(STAGES, at, at[1:], strict=False)}
    return {**seconds, "processor": processor, **sizes}


def total(values: Mapping[str, Any]) -> float:
    """Return the seconds to trace, lower and compile the step."""
    return values["trace"] + values["lower"] + values["compile"]


def table(rows: Rows) -> Table:
    """Return one line per point."""
    header = (
        "",
        *(f"{stage} s" for stage in STAGES[:3]),
        "total s",
        "x shallowest",
        "CPU s",
        "x shallowest",
        "create s",
        "jaxpr",
        "StableHLO",
        "HLO lines",
    )
    cells, ratios = [], {}
    for name, values in rows.items():
        series, _, depth = name.rpartition(" ")
        shallow = rows.get(f"{series} {LAYERS[0]}")
        ratio = total(values) / total(shallow) if shallow else None
        if shallow and ratio is not None and int(depth) == LAYERS[-1]:
            ratios[series] = ratio, values["processor"] / shallow["processor"]
        stages = [f"{values[stage]:.2f}" for stage in STAGES[:3]]
        wall_ratio = "–" if ratio is None else f"{ratio:.2f}"
        cpu_ratio = f"{values['processor'] / shallow['processor']:.2f}" if shallow else "–"
        sizes = [f"{values[name]:,}" for name in ("jaxpr", "stablehlo", "hlo")]
        times = [f"{total(values):.2f}", wall_ratio, f"{values['processor']:.2f}", cpu_ratio, f"{values['create']:.2f}"]
        cells.append([name, *stages, *times, *sizes])
    notes = [
        f"{series}: from {LAYERS[0]} to {LAYERS[-1]} layers, the wall time grows by {wall:.2f}x ({'within' if wall <= WITHIN else 'not within'} {WITHIN}x)"
        f" and the CPU time by {cpu:.2f}x"
        for series, (wall, cpu) in ratios.items()
    ]
    return Table(header, cells, notes)


def draw(figure: Any, rows: Rows) -> None:
    """Plot seconds by layers."""
    for axis, target in zip(figure.subplots(1, len(TARGETS)), TARGETS, strict=True):
        series: dict[str, tuple[list[float], list[float]]] = {}
        for name, values in rows.items():
            point_target, kind, layers = name.split(" ")
            if point_target == target:
                for what, seconds in (("step", total(values)), ("create", values["create"])):
                    xs, ys = series.setdefault(f"{kind}, {what}", ([], []))
                    xs.append(int(layers))
                    ys.append(seconds)
        lines(axis, series, x="layers", y="seconds to trace, lower and compile")
        axis.set_ylim(bottom=0)
        axis.set_title(target, fontsize=9)


PART = Part(name="depth", about=__doc__, points=points, measure=measure, table=table, draw=draw, rounds=3)
