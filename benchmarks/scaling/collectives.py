"""Bytes that a device sends in a step, from 8 to 1,024 chips: compiled ahead of time, beside what theory says.

Constant rows a device. Compiled for chips whose memory holds a billion parameters whole, so that one kind serves all: TPU v5p, minutes a program, and
H100 in nodes of 8.
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
    # GPT-3 1.3B with words that divide, and T5 1.1 large.
    "decoder": {"num_layers": 24, "d_model": 2048, "num_heads": 16, "vocab_size": 50304, "length": 1024},
    "encoder_decoder": {
        **{"num_layers": 24, "d_model": 1024, "num_heads": 16, "d_ff": 2816, "head_dim": 64},
        **{"length": 512, "targets_length": 128},
    },
}


def points(rounds: int) -> Mapping[str, Point]:
    """Return both models on each mesh, kind and number of chips."""
    return {
        f"{chip} {kind} {mesh} {count}": Point(
            arguments={"kind": kind, "mesh": mesh, "topology": f"{chip}:{shape}"}, environment=ENVIRONMENT
        )
        for chip, shapes in TOPOLOGIES.items()
        for kind in KINDS
        for mesh in MESHES
        for count, shape in shapes.items()
    }


def divided(kind: str, mesh: str, chips: int, **model: Any) -> Experiment:
    """Return the model on a mesh of MESHES, ROWS rows a replica. model: other sizes than those of MODELS."""
    tensor = TENSOR if mesh == "fsdp+tensor" else 1
    return experiment(
        kind,
        batch_size=ROWS * chips // tensor,
        mesh={"data": chips} if mesh == "data" else {"data": 1, "fsdp": chips // tensor, "tensor": tensor},
        **{"dtype": "bfloat16", "remat": "full", **MODELS[kind], **model},
    )


def measure(kind: str, mesh: str, topology: str) -> Values:
    """Return what the compiled program sends, what theory and the plan's estimate say, by mesh axis in bytes."""
    machine = Topology.parse(topology)
    program = prepare(divided(kind, mesh, machine.size), machine, machine.devices())
    return described(program, machine, gathered=2, summed=2)


def described(program: Program, machine: Topology, *, gathered: int, summed: int, scatters: bool = True) -> Values:
    """Return `measure`'s values of a program; for the other arguments see `theory.sent`. Raises RuntimeError where the compiler runs out of memory."""
    made = plan(program, machine)
    if not made.compiled:
        raise RuntimeError(made.message)
    return {
        "chips": machine.size,
        "collectives": made.to_json()["collectives"],
        "compiled": by_axis(made.sent),
        "theory": sent(program, gathered=gathered, summed=summed, scatters=scatters),
        "estimate": by_axis(estimate(program, machine).sent),
        "unknown": made.unknown,
        "seconds": made.seconds,
    }


def table(rows: Rows) -> Table:
    """Return a line a program."""
    made = []
    for name, values in rows.items():
        axes = ("data", "fsdp", "tensor")
        compiled = dict.fromkeys(axes, 0.0)
        for joined, count in values["compiled"].items():
            # What runs along several axes counts with the outermost.
            compiled[next((axis for axis in axes if axis in joined), "tensor")] += count
        line = [name]
        for axis in axes:
            said = values["theory"].get(axis, values["estimate"].get(axis, 0.0))
            line += [size(compiled[axis]), size(said), f"{compiled[axis] / said:.2f}" if said else "–"]
        made.append([*line, f"{values['seconds']:.0f}"])
    header = (
        "",
        *(f"{axis}{what}" for axis in ("data", "fsdp", "tensor") for what in ("", " theory", " x")),
        "compile s",
    )
    return Table(
        header,
        made,
        (
            "sent by each chip in a step; theory: 2 (n - 1)/n of the gradients over data; two gathers of the parameters and one scatter of the gradients,"
            " (n - 1)/n of them each, over fsdp; both in bfloat16, as computed. tensor: the plan's estimate.",
        ),
    )


def draw(figure: Any, rows: Rows) -> None:
    """Draw bytes against chips."""
    for axis, kind in zip(figure.subplots(1, 2), KINDS, strict=True):
        series: dict[str, tuple[list[float], list[float]]] = {}
        for name, values in rows.items():
            chip, own, mesh, chips = name.split(" ")
            if own == kind:
                xs, ys = series.setdefault(f"{mesh}, {chip}", ([], []))
                xs.append(int(chips))
                ys.append(sum(values["compiled"].values()) / 1e9)
        lines(axis, series, x="chips", y="GB sent by a chip in a step", log=True)
        axis.set_title(kind, fontsize=9)


PART = Part(name="collectives", about=__doc__, points=points, measure=measure, table=table, draw=draw)
