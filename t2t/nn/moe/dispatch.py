"""Two ways to bring tokens to their experts and back: without a limit, by sorting; and with a limit for each expert."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from t2t.nn.moe.grouped import grouped_product
from t2t.nn.moe.moves import moved
from t2t.sharding import axis_size, constrain, divided_rows, on_own_experts

Inner = Callable[[jax.Array, jax.Array | None], jax.Array]
"""A function of the two branches of an expert, the second one None if it is not gated, that returns its inner activations."""


class Pairs(NamedTuple):
    """The two low-rank matrices of each expert, [E I R] and [E R O], whose product is added to its kernel; or their logical axes.

    The scale is part of `b`.
    """

    a: Any
    b: Any


class Kernels(NamedTuple):
    """Kernels of all experts, and their biases and adapters or None. gate: of the second branch of gated experts, or None."""

    up: Float[Array, "E D F"]
    gate: Float[Array, "E D F"] | None
    down: Float[Array, "E F D"]
    up_bias: Float[Array, "E F"] | None = None
    gate_bias: Float[Array, "E F"] | None = None
    down_bias: Float[Array, "E D"] | None = None
    up_adapter: Pairs | None = None
    gate_adapter: Pairs | None = None
    down_adapter: Pairs | None = None


class Assigned(NamedTuple):
    """Tokens, and the experts that process them.

    real: false for padding, which no expert processes.
    dropout: factors on the inner layer, the same for all experts of a token; None if there is no dropout.
    """

    x: Float[Array, "B L D"]
    experts: Int[Array, "B L k"]
    weights: Float[Array, "B L k"]
    real: Bool[Array, "B L"]
    dropout: Float[Array, "B L F"] | None = None


_ROWS = ("batch", "length")
_AXES: Mapping[str, Mapping[str, Any]] = {
    "kernels": {
        "up": ("experts", None, "mlp"),
        "gate": ("experts", None, "mlp"),
        "down": ("experts", "mlp", None),
        "up_bias": ("experts", "mlp"),
        "gate_bias": ("experts", "mlp"),
        "down_bias": ("experts", None),
        "up_adapter": Pairs(("experts", None, None), ("experts", None, "mlp")),
        "gate_adapter": Pairs(("experts", None, None), ("experts", None, "mlp")),
        "down_adapter": Pairs(("experts", "mlp", None), ("experts", None, None)),
    },
    "tokens": {"x": _ROWS, "experts": _ROWS, "weights": _ROWS, "real": _ROWS, "dropout": (*_ROWS, "mlp")},
}
"""Logical axes of the fields of `Kernels` and `Assigned`. Each device needs kernels in their full width."""


def dropless(kernels: Kernels, tokens: Assigned, inner: Inner) -> Float[Array, "B L D"]:
    """Return the weighted sums of the outputs of all chosen experts.

    Tokens are sorted by expert, and each expert multiplies its own section (`t2t.nn.moe.grouped`). On a mesh, each device sorts its own rows, or, if experts
    are divided over devices, the tokens of its own experts. If the inner layer is divided, partial sums are added up for each token, not for each of its
    experts.
    """
    # Devices exchange kernels in the type that they compute in.
    kernels = jax.tree.map(lambda kernel: kernel.astype(tokens.x.dtype), kernels)
    function, parts = partial(_sorted, inner=inner), axis_size("tensor")
    if parts == 1 and not divided_rows():
        return function(kernels, tokens)
    if kernels.down_bias is not None:
        # Each part of the inner layer adds it.
        kernels = kernels._replace(down_bias=kernels.down_bias / parts)
    axes = {name: own for name, own in _AXES["kernels"].items() if getattr(kernels, name) is not None}
    return on_own_experts(function, kernels, Kernels(**{"gate": None, **axes}), tokens, Assigned(**_AXES["tokens"]))


def _sorted(
    kernels: Kernels, tokens: Assigned, first: Int[Array, ""] | int = 0, *, inner: Inner
) -> Float[Array, "B L D"]:
    """Return the sums over the experts of `kernels` alone. first: number of the first of them."""
    x = tokens.x.reshape(-1, tokens.x.shape[-1])
    count, chosen = kernels.up.shape[0], tokens.experts.shape[-1]
    # Padding, and the tokens of other experts, are sorted behind the last expert, outside of all sections.
    expert = tokens.experts - first
    here = tokens.real[..., None] & (expert >= 0) & (expert < count)
    expert = jnp.where(here, expert, count).reshape(-1)
    order = jnp.argsort(expert, stable=True)
    place = jnp.zeros_like(order).at[order].set(jnp.arange(order.shape[0], dtype=order.dtype))
    sizes = jnp.sum(expert[:, None] == jnp.arange(count), axis=0, dtype=jnp.int32)
    inside = (expert[order] < count)[:, None]

    def sort(x: Float[Array, "T D"]) -> Float[Array, "Tk D"]:
        return moved(jnp.repeat(x, chosen, axis=0), order, place)

    def product(rows: jax.Array, kernel: jax.Array, bias: jax.Array | None, adapter: Pairs | None) -> jax.Array:
        out = grouped_product(rows, kernel, sizes)
        if adapter is not None:
            out = out + grouped_product(grouped_product(rows, adapter.a, sizes), adapter.b, sizes)
        return out if bias is None else out + bias.at[expert[order]].get(mode="clip")

    # What the product gives outside of all sections is not defined, forward or backward.
    hidden = _hidden(jnp.where(inside, sort(x), 0), kernels, inner, product)
    if tokens.dropout is not None:
        hidden = hidden * sort(tokens.dropout.reshape(-1, hidden.shape[-1]))
    out = jnp.where(inside, product(hidden, kernels.down, kernels.down_bias, kernels.down_adapter), 0)
    by_choice = moved(out, place, order).reshape(*tokens.experts.shape, -1)
    return _combined(by_choice, tokens.weights)


def equal_room(length: int, experts: int, chosen: int, factor: float) -> int:
    """Return how many tokens of a row of `length` an expert has room for: `factor` times its equal share."""
    return min(max(math.ceil(factor * chosen * length / experts), 1), length)


def with_room(
    kernels: Kernels, tokens: Assigned, inner: Inner, size: int
) -> tuple[Float[Array, "B L D"], Float[Array, "B L k"]]:
    """Return the same sums over the choices that an expert has room for, and 1 for each of these choices (Lepikhin et al. 2021; Fedus et al. 2022).

    size: number of tokens of a row that an expert has room for.

    In each row, first choices come before second choices, and earlier tokens before later ones. All sizes are static, so this is a plain batched product.
    """
    (rows, length, width), chosen = tokens.x.shape, tokens.experts.shape[-1]
    count = kernels.up.shape[0]
    expert = jnp.swapaxes(tokens.experts, 1, 2).reshape(rows, chosen * length)
    real = jnp.tile(tokens.real, (1, chosen))
    one_hot = (expert[..., None] == jnp.arange(count)) & real[..., None]
    ahead = jnp.cumsum(one_hot, axis=1, dtype=jnp.int32) - 1
    position = jnp.take_along_axis(ahead, expert[..., None], axis=-1)[..., 0]
    kept = real & (position < size)
    slot = jnp.where(kept, expert * size + position, count * size)
    choices = jnp.arange(chosen * length, dtype=slot.dtype)
    empty = jnp.full((count * size,), chosen * length, slot.dtype)
    choice = jax.vmap(lambda slot: empty.at[slot].set(choices, mode="drop"))(slot)

    # In the products, experts come first, and rows and places are one axis. Otherwise, XLA transposes the operands of each product on a CPU.
    places = ("experts", "expert_batch", None, None)

    def filled(x: Float[Array, "B L D"]) -> Float[Array, "E BC D"]:
        # Each device fills the buffer of its own rows. With experts divided over devices, each row of the buffer then moves to the device of its expert
        # (all-to-all). Without the first constraint, XLA gathers the tokens and fills the buffers there.
        buffer = constrain(jax.vmap(moved)(jnp.tile(x, (1, chosen, 1)), choice, slot), ("batch", None, None))
        by_expert = constrain(jnp.swapaxes(buffer.reshape(rows, count, size, x.shape[-1]), 0, 1), places)
        return by_expert.reshape(count, rows * size, x.shape[-1])

    def multiplied(rows: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.einsum("erd,edf->erf", rows, kernel.astype(rows.dtype))

    def product(rows: jax.Array, kernel: jax.Array, bias: jax.Array | None, adapter: Pairs | None) -> jax.Array:
        out = multiplied(rows, kernel)
        if adapter is not None:
            out = out + multiplied(multiplied(rows, adapter.a), adapter.b)
        return out if bias is None else out + bias.astype(rows.dtype)[:, None]

    hidden = _hidden(filled(tokens.x), kernels, inner, product)
    if tokens.dropout is not None:
        hidden = hidden * filled(tokens.dropout)
    out = product(hidden, kernels.down, kernels.down_bias, kernels.down_adapter).reshape(count, rows, size, width)
    out = constrain(
        jnp.swapaxes(constrain(out, places), 0, 1).reshape(rows, count * size, width), ("batch", None, None)
    )
    found = jax.vmap(moved)(out, slot, choice)
    by_choice = jnp.moveaxis(found.reshape(rows, chosen, length, width), 1, 2)
    kept_choices = jnp.moveaxis(kept.reshape(rows, chosen, length), 1, 2).astype(jnp.float32)
    return _combined(by_choice, tokens.weights), kept_choices


def _hidden(rows: jax.Array, kernels: Kernels, inner: Inner, product: Callable[..., jax.Array]) -> jax.Array:
    up = product(rows, kernels.up, kernels.up_bias, kernels.up_adapter)
    if kernels.gate is None:
        return inner(up, None)
    return inner(up, product(rows, kernels.gate, kernels.gate_bias, kernels.gate_adapter))


def _combined(by_choice: Float[Array, "B L k D"], weights: Float[Array, "B L k"]) -> Float[Array, "B L D"]:
    return jnp.sum(by_choice * weights.astype(by_choice.dtype)[..., None], axis=2)
