"""Rows that are moved to other places and back."""

from __future__ import annotations

import jax
from jaxtyping import Array, Float, Int


@jax.custom_vjp
def moved(x: Float[Array, "R D"], source: Int[Array, "S"], target: Int[Array, "R"]) -> Float[Array, "S D"]:
    """Return the rows `x[source]`, with zeros where `source` is R or more.

    source: which row comes to each place; each row comes to one place at most.
    target: where each row of x goes: the inverse of `source`, S or more for a row that goes nowhere.

    The gradient moves the rows back. Automatic differentiation would add them up instead, row after row, because it does not know that no two rows meet.
    """
    return _taken(x, source)


def _forward(x: jax.Array, source: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _taken(x, source), target


def _backward(target: Int[Array, "R"], gradient: Float[Array, "S D"]) -> tuple[jax.Array, None, None]:
    return _taken(gradient, target), None, None


moved.defvjp(_forward, _backward)


def _taken(x: Float[Array, "R D"], source: Int[Array, "S"]) -> Float[Array, "S D"]:
    return x.at[source].get(mode="fill", fill_value=0)
