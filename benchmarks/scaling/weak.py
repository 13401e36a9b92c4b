"""Weak scaling over virtual devices: constant work per device.

Virtual devices share the cores of the machine, so times are compared with the serial sum: on one core, a step on n devices takes n times as long as on
one device if sharding costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from benchmarks.scaling.experiments import experiment
from benchmarks.scaling.part import Part, Point, Rows, Table, Values, devices
from benchmarks.scaling.showing import lines
from benchmarks.scaling.timing import Stepper, in_turns, median, spread
from t2t.train.program import Program

DEVICES = (1, 2, 4, 8)
AXES = ("data", "fsdp", "tensor")
CORES: tuple[int | None, ...] = (1, None)


def points(rounds: int) -> Mapping[str, Point]:
    """Return one point per mesh axis, on one core and on all cores."""
    return {
        f"{axis} {'all cores' if cores is None else 'one core'}": Point(
            arguments={"axis": axis, "rounds": rounds}, environment=devices(max(DEVICES)), cores=cores
        )
        for cores in CORES
        for axis in AXES
    }


def measure(axis: str, rounds: int) -> Values:
    """Return the times in seconds of a step on 1, 2, 4 and 8 devices, measured in turns.

    For data and fsdp, the number of rows per device is constant. For tensor, the number of heads, hidden units and vocabulary entries per device is
    constant, and the rows are the same.
    """
    runs = {}
    for count in DEVICES:
        wider = count if axis == "tensor" else 1
        config = experiment(
            "decoder",
            batch_size=8 if axis == "tensor" else 8 * count,
            length=128,
            mesh={"data": 1, axis: count},
            num_layers=4,
            d_model=256,
            num_heads=4 * wider,
            head_dim=64,
            d_ff=1024 * wider,
            vocab_size=1024 * wider,
        )
        runs[str(count)] = Stepper(Program.of(config, config.mesh.build(jax.devices()[:count])))
    return {"devices": list(DEVICES), "seconds": list(in_turns(runs, rounds).values())}


def efficiencies(values: Values) -> list[float]:
    """Return n * (time on 1 device) / (time on n devices) for each n. This is 1 if sharding costs nothing and one device uses all cores."""
    one = median(values["seconds"][0])
    return [count * one / median(times) for count, times in zip(values["devices"], values["seconds"], strict=True)]


def table(rows: Rows) -> Table:
    """Return one line per number of devices."""
    cells = [
        [f"{name}, {count}", f"{median(times) * 1e3:.1f}", f"{spread(times):.1%}", f"{efficiency:.2f}"]
        for name, values in rows.items()
        for count, times, efficiency in zip(values["devices"], values["seconds"], efficiencies(values), strict=True)
    ]
    return Table(
        ("", "ms", "spread", "efficiency"),
        cells,
        (
            "efficiency: devices x (time on one device) / time. On all cores it can exceed 1, if one device does not use all cores.",
        ),
    )


def draw(figure: Any, rows: Rows) -> None:
    """Plot efficiency by number of devices."""
    series = {name: (values["devices"], efficiencies(values)) for name, values in rows.items()}
    axis = figure.subplots()
    lines(axis, series, x="virtual devices", y="devices x time of one / time")
    axis.axhline(1.0, linestyle="--", color="#8a8f98", linewidth=1)
    axis.set_ylim(bottom=0)


PART = Part(name="weak", about=__doc__, points=points, measure=measure, table=table, draw=draw, rounds=9)
