"""Bytes that a device sends in a step, from 8 to 1,024 chips: programs compiled ahead of time, compared with theory.

The number of rows per device is constant. The chips have enough memory for a billion unsharded parameters, so that one kind of chip serves all meshes:
TPU v5p (minutes per program) and H100 in nodes of 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.scaling.experiments import KINDS, experiment
from benchmarks.scaling.part import Part, Point, Rows, Table, Values
from benchmarks.scaling.showing import lines, size
from benchmarks.scaling.theory import by_axis, sent
from t2t.plan.estimate import estimate
from t2t.plan.plan import plan, prepare
from t2t.plan.topology import ENVIRONMENT, Topology
from t2t.train.experiment import Experiment
from t2t.train.program import Program

TOPOLOGIES = {
    "v5p": {8: "2x2x2", 16: "2x2x4", 64: "4x4x4", 256: "4x8x8", 1024: "8x8x16"},
    "h100": {8: "1x8", 16: "2x8", 64: "8x8", 256: "32x8", 1024: "128x8"},
}
MESHES = ("data", "fsdp", "fsdp+tensor")
TENSOR = 4
ROWS = 4
MODELS: dict[str, dict[str, Any]] = {
    # GPT-3 1.3B with a vocabulary size that divides, and T5 1.1 large.
    "decoder": {"num_layers": 24, "d_model": 2048, "num_heads": 16, "vocab_size": 50304, "length": 1024},
    "encoder_decoder": {
        **{"num_layers": 24, "d_model": 1024, "num_heads": 16, "d_ff": 2816, "head_dim": 64},
        **{"length": 512, "targets_length": 128},
    },
}


def points(rounds: int) -> Mapping[str, Point]:
    """Return one point per kind of chip, model, mesh and number of chips."""
    return {
        f"{chip} {kind} {mesh} {count}": Point(
            arguments={"kind": kind, "mesh": mesh, "topology": f"{chip}:{shape}"}, environment=ENVIRONMENT
        )
        for chip, shapes in TOPOLOGIES.items()
        for kind in KINDS
        for mesh in MESHES
        for count, shape in shapes.items()
    }


def sharded_experiment(kind: str, mesh: str, chips: int, **model: Any) -> Experiment:
    """Return the experiment of a model on one of MESHES, with ROWS rows per replica.

    model: options that replace those of MODELS.
    """
    tensor = TENSOR if mesh == "fsdp+tensor" else 1
    return experiment(
        kind,
        batch_size=ROWS * chips // tensor,
        mesh={"data": chips} if mesh == "data" else {"data": 1, "fsdp": chips // tensor, "tensor": tensor},
        **{"dtype": "bfloat16", "remat": "full", **MODELS[kind], **model},
    )


def measure(kind: str, mesh: str, topology: str) -> Values:
    """Return the bytes that each device sends, by mesh axis: in the compiled program, in theory, and in the plan's estimate."""
    machine = Topology.parse(topology)
    program = prepare(sharded_experiment(kind, mesh, machine.size), machine, machine.devices())
    return measure_program(program, machine, gathered=2, summed=2)


def measure_program(
    program: Program, machine: Topology, *, gathered: int, summed: int, scatters: bool = True
) -> Values:
    """Return the values of `measure` for a program. See `theory.sent` for the other arguments. Raise RuntimeError if the compiler runs out of memory."""
    found = plan(program, machine)
    if not found.compiled:
        raise RuntimeError(found.message)
    return {
        "chips": machine.size,
        "collectives": found.to_json()["collectives"],
        "compiled": by_axis(found.sent),
        "theory": sent(program, gathered=gathered, summed=summed, scatters=scatters),
        "estimate": by_axis(estimate(program, machine).sent),
        "unknown": found.unknown,
        "seconds": found.seconds,
    }


def table(rows: Rows) -> Table:
    """Return one line per program."""
    cells = []
    for name, values in rows.items():
        axes = ("data", "fsdp", "tensor")
        compiled = dict.fromkeys(axes, 0.0)
        for joined, count in values["compiled"].items():
            # A collective over several axes counts for the outermost one.
            compiled[next((axis for axis in axes if axis in joined), "tensor")] += count
        line = [name]
        for axis in axes:
            expected = values["theory"].get(axis, values["estimate"].get(axis, 0.0))
            line += [size(compiled[axis]), size(expected), f"{compiled[axis] / expected:.2f}" if expected else "–"]
        cells.append([*line, f"{values['seconds']:.0f}"])
    header = (
        "",
        *(f"{axis}{what}" for axis in ("data", "fsdp", "tensor") for what in ("", " theory", " x")),
        "compile s",
    )
    return Table(
        header,
        cells,
        (
            "bytes that each chip sends in a step. Theory: 2 (n - 1)/n of the gradients over data; two all-gathers of the parameters and one"
            " reduce-scatter of the gradients over fsdp, (n - 1)/n of the bytes each; all in bfloat16, the compute dtype. tensor: the plan's estimate.",
        ),
    )


def draw(figure: Any, rows: Rows) -> None:
    """Plot bytes by number of chips."""
    for axis, kind in zip(figure.subplots(1, 2), KINDS, strict=True):
        series: dict[str, tuple[list[float], list[float]]] = {}
        for name, values in rows.items():
            chip, point_kind, mesh, chips = name.split(" ")
            if point_kind == kind:
                xs, ys = series.setdefault(f"{mesh}, {chip}", ([], []))
                xs.append(int(chips))
                ys.append(sum(values["compiled"].values()) / 1e9)
        lines(axis, series, x="chips", y="GB sent by a chip in a step", log=True)
        axis.set_title(kind, fontsize=9)


PART = Part(name="collectives", about=__doc__, points=points, measure=measure, table=table, draw=draw)
