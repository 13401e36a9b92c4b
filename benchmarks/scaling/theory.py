"""What theory says is sent: by the ring algorithms, with one gather of each kernel for a pass and one sum of each gradient."""

from __future__ import annotations

import math
from collections.abc import Iterable

from t2t.optim.paths import flatten_specs
from t2t.plan.collectives import Collective
from t2t.sharding import DEFAULT_RULES
from t2t.train.program import Program


def sent(program: Program, *, gathered: int, summed: int, scatters: bool = True) -> dict[str, float]:
    """Return mesh axis -> bytes each device sends in a step of one microbatch, for the axes `data` and `fsdp`.

    data: gradients are summed over replicas: 2 (n - 1)/n of them. fsdp: parameters are gathered for the forward and for the backward pass and their
    gradients scattered, (n - 1)/n of them each; the gradients of what `fsdp` does not divide are summed as over replicas.

    gathered: bytes of an entry of a parameter as it is gathered (2: cast to bfloat16 before).
    summed:   of a gradient's.
    scatters: whether the compiler has a reduce-scatter; without one, gradients are summed everywhere, which sends twice as much.
    """
    shape = program.mesh.shape
    found = {"data": 0.0, "fsdp": 0.0}
    for spec in flatten_specs(program.model.specs).values():
        used = {axis for logical in spec.axes if logical for axis in DEFAULT_RULES.table[logical]}
        entries = math.prod(spec.shape) / math.prod(shape[axis] for axis in used if axis != "fsdp")
        part, ring = (shape["fsdp"] if "fsdp" in used else 1), (shape["fsdp"] - 1) / shape["fsdp"]
        # The sum over replicas is of what a device keeps.
        found["data"] += 2 * (shape["data"] - 1) / shape["data"] * summed * entries / part
        if "fsdp" in used:
            found["fsdp"] += ring * entries * (2 * gathered + (1 if scatters else 2) * summed)
        else:
            found["fsdp"] += 2 * ring * entries * summed
    return found


def by_axis(found: Iterable[Collective]) -> dict[str, float]:
    """Return mesh axes -> bytes each device sends; axes that one collective runs along are joined by "+"."""
    total: dict[str, float] = {}
    for item in found:
        name = "+".join(item.axes) or "none"
        total[name] = total.get(name, 0.0) + item.sent
    return total
