"""Floating-point operations (FLOPs) of a step, counted in its jaxpr.

A multiply-add counts as two. Only matrix products and triangular solves count: all other operations are a few thousandths of the total. Products with
masked positions count if the program computes them, causal or not (as in Chowdhery et al. 2022, appendix B). XLA's own count is not usable: it counts
the body of a loop once, so a stack scanned over depth counts as one layer.
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

from t2t.nn.moe.grouped import COUNTED
from t2t.optim.trainable import merge, split
from t2t.train.program import Program
from t2t.types import Batch, Params


@dataclass(frozen=True, kw_only=True)
class Flops:
    """FLOPs of one step, over all devices.

    model:    three times the forward pass (6 per parameter and token, plus attention), without recomputation.
    hardware: FLOPs that the step executes, recomputation included, by operand dtype. If the two operands differ, the wider dtype counts. All 8-bit
              floats count as "float8".
    """

    model: float
    hardware: dict[str, float]

    @property
    def total(self) -> float:
        """Sum of `hardware` over all dtypes."""
        return sum(self.hardware.values())


def count(program: Program) -> Flops:
    """Return the FLOPs of a program's step. Traces the step without a mesh and compiles nothing."""
    experiment, model = program.experiment, program.model
    batch = plain(program.abstract_batch())
    state = plain(program.abstract_state())

    trainable, frozen = split(state.params, program.specs)

    def loss(trainable: Params, frozen: Params, batch: Batch, key: jax.Array) -> jax.Array:
        return experiment.objective.loss(model, merge(trainable, frozen), batch, key).objective

    forward = dots(loss, trainable, frozen, batch, state.key)
    # The trace ignores microbatches: they change neither count.
    whole = dots(jax.grad(loss), trainable, frozen, batch, state.key)
    return Flops(model=3.0 * sum(forward.values()), hardware=dict(whole))


def plain(tree: Any) -> Any:
    """Return a tree of ShapeDtypeStructs without shardings."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def dots(function: Callable[..., Any], *arguments: Any) -> Counter[str]:
    """Return the FLOPs of a function's matrix products and triangular solves, by operand dtype. The body of a scan counts once per iteration.

    Raises ValueError if a while loop contains matrix products: its number of iterations is unknown during tracing.
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
        elif name in ("ragged_dot", "ragged_dot_general") or _is_grouped(equation):
            widest = max((variable.aval.dtype for variable in equation.invars[:2]), key=lambda dtype: dtype.itemsize)
            total[widest.name] += _ragged_dot(equation)
        elif name == "triangular_solve":
            total[equation.invars[1].aval.dtype.name] += _solve(equation)
        elif name == "cond":
            branches = [_count(branch.jaxpr) for branch in equation.params["branches"]]
            largest = max(branches, key=lambda counts: counts.total())
            total.update(largest)
        elif name == "while":
            if _count(equation.params["body_jaxpr"].jaxpr):
                raise ValueError(
                    "a while loop contains matrix products: its number of iterations is unknown during tracing"
                )
        else:
            times = _rounds(equation)
            for inner in _inner(equation):
                for dtype, operations in _count(inner).items():
                    total[dtype] += times * operations
    return total


def _rounds(equation: Any) -> int:
    """Return how often the inner jaxpr runs: the length of a scan, or the grid size of a Pallas kernel, including blocks that the kernel skips."""
    if equation.primitive.name == "pallas_call":
        return math.prod(equation.params["grid_mapping"].grid)
    return int(equation.params["length"]) if equation.primitive.name == "scan" else 1


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


def _solve(equation: Any) -> int:
    """Return the FLOPs of a triangular solve: a multiply-add for each number below the diagonal and each right side."""
    matrices, sides = (variable.aval.shape for variable in equation.invars)
    return matrices[-1] * math.prod(sides)


def _is_grouped(equation: Any) -> bool:
    """Return whether an equation is a product of `t2t.nn.moe.grouped`. Partial evaluation splits off another call, of what depends on the sizes alone."""
    operands = [variable.aval for variable in equation.invars[:2]]
    return (
        equation.params.get("name") in COUNTED and len(operands) == 2 and all(operand.ndim > 1 for operand in operands)
    )


def _ragged_dot(equation: Any) -> int:
    """Return the FLOPs of a product in which each row meets the matrix of one group, such as a token that of its expert: forward, or for either operand."""
    left, right = (variable.aval.shape for variable in equation.invars[:2])
    out = equation.outvars[0].aval.shape
    # Rows and the two widths of a matrix: the arrays [rows, in], [groups, in, out] and [rows, out] in any order.
    two = [shape for shape in (left, right, out) if len(shape) == 2]
    (rows, one), (_, other) = two
    return 2 * rows * one * other
