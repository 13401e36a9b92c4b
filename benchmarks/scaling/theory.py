"""Communication in theory: ring algorithms, with one all-gather of each kernel per pass and one sum of each gradient."""

from __future__ import annotations

import math
from collections.abc import Iterable

from t2t.optim.paths import flatten_specs
from t2t.plan.collectives import Collective
from t2t.sharding import DEFAULT_RULES
from t2t.train.program import Program


def sent(program: Program, *, gathered: int, summed: int, scatters: bool = True) -> dict[str, float]:
    """Return the bytes that each device sends in a step of one microbatch, by mesh axis (`data` and `fsdp`).

    data: all-reduce of the gradients: 2 (n - 1)/n of their bytes.
    fsdp: all-gathers of the parameters for the forward and the backward pass and a reduce-scatter of the gradients, (n - 1)/n of the bytes each.
          Gradients of parameters that `fsdp` does not shard need an all-reduce, as over `data`.

    gathered: bytes per parameter in all-gathers (2 if parameters are cast to bfloat16 first).
    summed:   bytes per parameter in sums of gradients.
    scatters: whether the compiler has a reduce-scatter. Without it, an all-reduce sends twice as many bytes.
    """
    shape = program.mesh.shape
    found = {"data": 0.0, "fsdp": 0.0}
    for spec in flatten_specs(program.model.specs).values():
        used = {axis for logical in spec.axes if logical for axis in DEFAULT_RULES.table[logical]}
        entries = math.prod(spec.shape) / math.prod(shape[axis] for axis in used if axis != "fsdp")
        part, ring = (shape["fsdp"] if "fsdp" in used else 1), (shape["fsdp"] - 1) / shape["fsdp"]
        # The all-reduce over `data` is of the gradients' shard of each device.
        found["data"] += 2 * (shape["data"] - 1) / shape["data"] * summed * entries / part
        if "fsdp" in used:
            found["fsdp"] += ring * entries * (2 * gathered + (1 if scatters else 2) * summed)
        else:
            found["fsdp"] += 2 * ring * entries * summed
    return found


def by_axis(found: Iterable[Collective]) -> dict[str, float]:
    """Return the bytes that each device sends, by mesh axes. The axes of a collective over several axes are joined by "+"."""
    total: dict[str, float] = {}
    for item in found:
        name = "+".join(item.axes) or "none"
        total[name] = total.get(name, 0.0) + item.sent
    return total
