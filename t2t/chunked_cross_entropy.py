"""A head and its cross-entropy taken together, a block of positions at a time: all logits of a batch never exist at once.

With a large vocabulary the float32 logits, (B, L, V), and their gradient are the largest arrays of a training step. Here a block of them is made,
turned into its part of the loss and of the gradient, and dropped. As the loss is a sum, its gradient needs nothing that comes later but a factor, so it
is made in the forward pass and no logit is computed twice; Liger Kernel (Hsu et al. 2024, section 3.2) fuses the two likewise. Sums and gradients are
those of `t2t.losses.cross_entropy` on all logits, but for the order of summation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from t2t import types
from t2t.losses import LossSums, Regularizers, cross_entropy, cross_entropy_and_gradient
from t2t.sharding import axis_size, divided_rows, on_own_rows, platform

Head = Callable[[Float[Array, "N D"]], Float[Array, "N V"]]
ON_CPU = 1024
"""Positions at a time on CPUs: 512 to 2,048 took as long, and fewer take less memory."""
ON_ACCELERATORS = 8192
"""Each block reads and writes the head's gradient, 16 bytes an entry, where its products are 6 operations an entry and position: at an H100's or a TPU v5e's
some 240 operations a byte this is 640 / positions of the products' time, 8% for so many."""
MOST = 2**31
"""Bytes of a block's float32 logits with their gradient on accelerators, whatever the vocabulary."""


class Blocked(Regularizers, Protocol):
    """Options of the loss; `t2t.objectives.CrossEntropy` has them. Hashable."""

    @property
    def block(self) -> int | None:
        """Positions whose logits a device holds at a time; None for what suits the platform."""


def positions_at_a_time(loss: Blocked, words: int) -> int:
    """Return how many positions' logits of so many words a device holds: `loss.block`, or what suits the platform that is traced for."""
    if loss.block is not None:
        return loss.block
    return ON_CPU if platform() == "cpu" else max(min(ON_ACCELERATORS, MOST // (8 * words)), 1)


def chunked_cross_entropy(
    head: Head,
    hidden: Float[Array, "B L D"],
    targets: Int[types.Array, "B L"],
    weights: Float[types.Array, "B L"],
    loss: Blocked,
) -> LossSums:
    """Return the sums of the cross-entropy of `head(hidden)`. Of them `objective` alone has a gradient: to `hidden` and to what `head` closes over.

    Positions without weight are put last, and blocks of nothing else are left out: most of a masked LM's positions, prompts, padding. A device goes
    through its own positions, `positions_at_a_time`; parameters are gathered once and their gradients added up over the devices once.

    head: makes the logits of each position on its own.
    """
    held = math.prod(hidden.shape[:2]) // math.prod(axis_size(axis) for axis in divided_rows())
    words = jax.eval_shape(head, jax.ShapeDtypeStruct((1, hidden.shape[-1]), hidden.dtype)).shape[-1]
    count = -(-held // positions_at_a_time(loss, words))
    size = -(-held // count)
    # Traced once, on a block: what it closes over becomes an argument, so that its gradient can be asked for.
    explicit, parameters = jax.closure_convert(head, jnp.zeros((size, hidden.shape[-1]), hidden.dtype))
    weights = jax.lax.stop_gradient(jnp.asarray(weights, jnp.float32))
    return _head_loss(explicit, loss, size, tuple(parameters), jnp.asarray(hidden), jnp.asarray(targets), weights)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _head_loss(
    head: Callable[..., jax.Array],
    loss: Blocked,
    size: int,
    parameters: tuple[jax.Array, ...],
    hidden: Float[Array, "B L D"],
    targets: Int[Array, "B L"],
    weights: Float[Array, "B L"],
) -> LossSums:
    def own(parameters: Any, rows: Any) -> tuple[LossSums, None]:
        def block(total: LossSums, part: Any) -> LossSums:
            x, targets, weights = part
            return total + cross_entropy(head(x, *parameters), targets, weights, loss)

        return _over_blocks(block, _no_sums(), *_in_blocks(rows, size)[:2]), None

    return on_own_rows(own, parameters, (hidden, targets, weights))[0]


def _forward(
    head: Callable[..., jax.Array], loss: Blocked, size: int, parameters: Any, hidden: Any, targets: Any, weights: Any
) -> tuple[LossSums, tuple[Any, Any]]:
    # A gradient that nobody asks for, of a frozen parameter or below frozen ones, would be carried through the loop over blocks all the same.
    asked = [argument.perturbed for argument in (hidden, *parameters)]

    def own(parameters: Any, rows: Any) -> tuple[tuple[LossSums, Any], jax.Array | None]:
        def block(carry: tuple[LossSums, Any, Any], part: Any) -> tuple[LossSums, Any, Any]:
            total, grads, slopes = carry
            number, (x, targets, weights) = part
            logits, back = jax.vjp(partial(_given, head, asked, (x, *parameters)), *_those(asked, (x, *parameters)))
            sums, slope = cross_entropy_and_gradient(logits, targets, weights, loss)
            found = back(slope)
            if slopes is not None:
                slopes = jax.lax.dynamic_update_index_in_dim(slopes, found[0], number, 0)
                found = found[1:]
            return total + sums, jax.tree.map(jnp.add, grads, tuple(found)), slopes

        (x, targets, weights), filled, put_back = _in_blocks(rows, size)
        grads = jax.tree.map(jnp.zeros_like, tuple(_those(asked[1:], parameters)))
        begin = (_no_sums(), grads, jnp.zeros_like(x) if asked[0] else None)
        numbered = (jnp.arange(len(x)), (x, targets, weights))
        total, grads, slopes = _over_blocks(block, begin, numbered, filled)
        return (total, grads), None if slopes is None else put_back(slopes)

    rows = (hidden.value, targets.value, weights.value)
    (total, grads), slopes = on_own_rows(own, tuple(parameter.value for parameter in parameters), rows)
    rest = iter(grads)
    return total, (tuple(next(rest) if one else None for one in asked[1:]), slopes)


def _those(asked: list[bool], values: tuple[jax.Array, ...]) -> list[jax.Array]:
    return [value for one, value in zip(asked, values, strict=True) if one]


def _given(
    head: Callable[..., jax.Array], asked: list[bool], values: tuple[jax.Array, ...], *those: jax.Array
) -> jax.Array:
    """Return head(*values) with `those` in place of the values that are asked for."""
    rest = iter(those)
    return head(*(next(rest) if one else value for one, value in zip(asked, values, strict=True)))


def _backward(head: Any, loss: Blocked, size: int, residuals: tuple[Any, Any], slope: LossSums) -> tuple[Any, ...]:
    grads, slopes = jax.tree.map(lambda x: (x * slope.objective).astype(x.dtype), residuals)
    return grads, slopes, None, None


_head_loss.defvjp(_forward, _backward, symbolic_zeros=True)


def _in_blocks(rows: tuple[jax.Array, ...], size: int) -> tuple[Any, Any, Callable[[jax.Array], jax.Array]]:
    """Return hidden, targets and weights in blocks [blocks size ...], those with weight first; whether each block has any; and the way back."""
    hidden, targets, weights = rows
    shape = weights.shape
    held = weights.size
    count = -(-held // size)
    if count == 1:
        blocks = tuple(x.reshape(1, held, *x.shape[2:]) for x in rows)
        return blocks, jnp.ones(1, bool), lambda slopes: slopes.reshape(*shape, -1)
    order = jnp.argsort(weights.reshape(-1) == 0, stable=True)

    def block(x: jax.Array) -> jax.Array:
        x = jnp.asarray(x).reshape(held, *x.shape[2:])[order]
        return jnp.pad(x, ((0, count * size - held),) + ((0, 0),) * (x.ndim - 1)).reshape(count, size, *x.shape[1:])

    def put_back(slopes: jax.Array) -> jax.Array:
        return slopes.reshape(count * size, -1)[jnp.argsort(order)].reshape(*shape, -1)

    blocks = tuple(map(block, (hidden, targets, weights)))
    return blocks, jnp.any(blocks[2] != 0, axis=1), put_back


def _over_blocks(function: Callable[[Any, Any], Any], begin: Any, parts: Any, filled: jax.Array) -> Any:
    """Fold over the blocks that have any weight."""
    if len(filled) == 1:
        return function(begin, jax.tree.map(lambda x: x[0], parts))

    def body(carry: Any, item: Any) -> tuple[Any, None]:
        part, wanted = item
        return jax.lax.cond(wanted, function, lambda carry, _: carry, carry, part), None

    return jax.lax.scan(body, begin, (parts, filled))[0]


def _no_sums() -> LossSums:
    zero = jnp.zeros((), jnp.float32)
    return LossSums(objective=zero, loss=zero, z_loss=zero, correct=zero, weight=zero)
