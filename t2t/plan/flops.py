"""Floating-point operations of a step, counted in its own trace.

Convention: a multiply-add is two; matrix products alone are counted (in a transformer all else is some thousandths); the products with what a mask
hides count as the program computes them, causal or not (as in Chowdhery et al. 2022, appendix B). XLA's own count takes the body of a loop once, so
that a stack scanned over depth counts as one layer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.extend import core

from t2t.optim.trainable import merge, split
from t2t.train.program import Program
from t2t.types import Batch, Params


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Operations of one step, over all devices.

    model:    three times the forward pass's: what the mathematics asks for (6 a parameter and token, and attention).
    hardware: type of the operands, the wider where they differ, "float8" for any of that width -> operations of the step as it is computed, what
              rematerialisation computes again included.
    """

    model: float
    hardware: dict[str, float]

    @property
    def total(self) -> float:
        """Operations as computed, of all types."""
        return sum(self.hardware.values())


def count(program: Program) -> Flops:
    """Count a program's step. Traces it without a mesh; nothing is compiled."""
    experiment, model = program.experiment, program.model
    batch = plain(program.abstract_batch())
    state = plain(program.abstract_state())

    trainable, frozen = split(state.params, program.specs)

    def minimised(trainable: Params, frozen: Params, batch: Batch, key: jax.Array) -> jax.Array:
        return experiment.objective.loss(model, merge(trainable, frozen), batch, key).objective

    forward = dots(minimised, trainable, frozen, batch, state.key)
    # Microbatches change neither count, and without them the trace is simpler.
    whole = dots(jax.grad(minimised), trainable, frozen, batch, state.key)
    return Flops(model=3.0 * sum(forward.values()), hardware=dict(whole))


def plain(tree: Any) -> Any:
    """Return ShapeDtypeStructs without their shardings."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def dots(function: Callable[..., Any], *arguments: Any) -> Counter[str]:
    """Return operand type -> operations in a function's matrix products; a scan's body counts as often as it runs.

    Raises ValueError on a loop whose number of rounds is not known while tracing.
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: core.Jaxpr) -> Counter[str]:
    total: Counter[str] = Counter()
    equation: Any
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            widest = max((variable.aval.dtype for variable in equation.invars), key=lambda dtype: dtype.itemsize)
            total["float8" if widest.name.startswith("float8") else widest.name] += _dot(equation)
        elif name == "cond":
            branches = [_count(branch.jaxpr) for branch in equation.params["branches"]]
            total.update(max(branches, key=_total))
        elif name == "while":
            if _count(equation.params["body_jaxpr"].jaxpr):
                raise ValueError("a while loop with matrix products: how often it runs is not known while tracing")
        else:
            times = _rounds(equation)
            for inner in _inner(equation):
                for dtype, operations in _count(inner).items():
                    total[dtype] += times * operations
    return total


def _rounds(equation: Any) -> int:
    """Return how often what is inside runs: a scan's rounds, the blocks of a kernel's grid. Blocks that the kernel leaves out count too."""
    if equation.primitive.name == "pallas_call":
        return math.prod(equation.params["grid_mapping"].grid)
    return int(equation.params["length"]) if equation.primitive.name == "scan" else 1


def _total(counts: Any) -> int:
    return sum(counts.values())


def _inner(equation: Any) -> list[core.Jaxpr]:
    found = []
    for value in equation.params.values():
        if isinstance(value, core.ClosedJaxpr):
            found.append(value.jaxpr)
        elif isinstance(value, core.Jaxpr):
            found.append(value)
    return found


def _dot(equation: Any) -> int:
    left, right = (variable.aval.shape for variable in equation.invars)
    (contracted, _), (batched, _) = equation.params["dimension_numbers"]
    shared = math.prod(left[axis] for axis in batched)
    inner = math.prod(left[axis] for axis in contracted)
    rows = math.prod(left) // max(shared * inner, 1)
    columns = math.prod(right) // max(shared * inner, 1)
    return 2 * int(np.prod([shared, inner, rows, columns], dtype=object))
