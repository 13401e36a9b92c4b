"""Cross-entropy of a large vocabulary in blocks of positions, without all logits of a batch in memory at once.

With a large vocabulary, the float32 logits, (B, L, V), and their gradient are the largest arrays of a training step. This module computes the logits
of one block of positions, adds the block's loss and gradient to the totals, and discards the logits. The loss is a sum, so its gradient depends on later
steps only through a factor. Therefore the forward pass computes the gradient too, and no logit is computed twice. Liger Kernel fuses the two in the same
way (Hsu et al. 2024, section 3.2). Sums and gradients equal those of `t2t.losses.cross_entropy` on all logits, except for the order of summation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from t2t import types
from t2t.losses import LossSums, Regularizers, cross_entropy_and_gradient
from t2t.sharding import axis_size, divided_rows, on_own_rows, platform

Head = Callable[[Float[Array, "N D"]], Float[Array, "N V"]]
SumsAndGradient = Callable[[jax.Array, jax.Array, jax.Array, Any], tuple[LossSums, jax.Array]]
"""(logits, targets, weights, loss) -> the sums, and the gradient of the objective with respect to the float32 logits."""
ON_CPU = 1024
"""Positions per block on CPUs. 512 to 2,048 positions took the same time; fewer positions need less memory."""
ON_ACCELERATORS = 8192
"""Positions per block on accelerators.

Each block reads and writes the head's gradient: 16 bytes per entry. Its matrix products take 6 operations per entry and position. An H100 or a TPU v5e
does about 240 operations per byte, so the gradient takes 640 / positions of the time of the products: 8% with 8,192 positions.
"""
MAX_BLOCK_BYTES = 2**31
"""Maximum bytes of a block's float32 logits and their gradient on accelerators, for any vocabulary."""


class InBlocks(Protocol):
    """Options of a loss whose logits are computed in blocks of positions."""

    @property
    def block(self) -> int | None:
        """Positions per block on each device; None for the default of the platform."""


class Blocked(InBlocks, Regularizers, Protocol):
    """Options of the loss. Must be hashable. `t2t.objectives.CrossEntropy` implements this protocol."""


def positions_at_a_time(loss: InBlocks, vocab_size: int) -> int:
    """Return the positions per block on each device: `loss.block`, or the default of the platform of the traced program."""
    if loss.block is not None:
        return loss.block
    return ON_CPU if platform() == "cpu" else max(min(ON_ACCELERATORS, MAX_BLOCK_BYTES // (8 * vocab_size)), 1)


def chunked_cross_entropy(
    head: Head,
    hidden: Float[Array, "B L D"],
    targets: Int[types.Array, "B L"],
    weights: Float[types.Array, "B L"],
    loss: Blocked,
    of_logits: SumsAndGradient = cross_entropy_and_gradient,
) -> LossSums:
    """Return the sums of the cross-entropy of `head(hidden)`.

    Only `objective` has a gradient: with respect to `hidden` and the variables that `head` closes over.
    Positions without weight are moved to the end, and blocks without any weight are skipped. These are padding, prompts, and most positions of a masked
    LM. Each device processes its own positions in blocks (`positions_at_a_time`). The parameters are gathered once, and their gradients are summed over
    the devices once.

    head:      computes the logits of each position independently.
    of_logits: computes another loss of the logits than the cross-entropy.
    """
    local = math.prod(hidden.shape[:2]) // math.prod(axis_size(axis) for axis in divided_rows())
    logits = jax.eval_shape(head, jax.ShapeDtypeStruct((1, hidden.shape[-1]), hidden.dtype))
    count = -(-local // positions_at_a_time(loss, logits.size))
    size = -(-local // count)
    # Trace the head once, on one block. Its closed-over variables become arguments, so that their gradients can be computed.
    explicit, parameters = jax.closure_convert(head, jnp.zeros((size, hidden.shape[-1]), hidden.dtype))
    weights = jax.lax.stop_gradient(jnp.asarray(weights, jnp.float32))
    bound = _Loss(of_logits, loss)
    return _head_loss(explicit, bound, size, tuple(parameters), jnp.asarray(hidden), jnp.asarray(targets), weights)


class _Loss(NamedTuple):
    """A loss of logits with its options."""

    of_logits: SumsAndGradient
    options: Blocked

    def __call__(self, logits: jax.Array, targets: jax.Array, weights: jax.Array) -> tuple[LossSums, jax.Array]:
        return self.of_logits(logits, targets, weights, self.options)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _head_loss(
    head: Callable[..., jax.Array],
    loss: _Loss,
    size: int,
    parameters: tuple[jax.Array, ...],
    hidden: Float[Array, "B L D"],
    targets: Int[Array, "B L"],
    weights: Float[Array, "B L"],
) -> LossSums:
    def device_sums(parameters: Any, rows: Any) -> tuple[LossSums, None]:
        def block(total: LossSums, part: Any) -> LossSums:
            x, targets, weights = part
            return total + loss(head(x, *parameters), targets, weights)[0]

        parts, filled = _in_blocks(rows, size)[:2]
        return _over_blocks(block, _no_sums(head, loss, parts, parameters), parts, filled), None

    return on_own_rows(device_sums, parameters, (hidden, targets, weights))[0]


def _forward(
    head: Callable[..., jax.Array], loss: _Loss, size: int, parameters: Any, hidden: Any, targets: Any, weights: Any
) -> tuple[LossSums, tuple[Any, Any]]:
    # Compute only the gradients that are needed. The loop over blocks would carry the others too (of frozen parameters, or below them).
    needed = [argument.perturbed for argument in (hidden, *parameters)]

    def device_sums(parameters: Any, rows: Any) -> tuple[tuple[LossSums, Any], jax.Array | None]:
        def block(carry: tuple[LossSums, Any, Any], part: Any) -> tuple[LossSums, Any, Any]:
            total, grads, hidden_grads = carry
            number, (x, targets, weights) = part
            arguments = (x, *parameters)
            logits, vjp = jax.vjp(partial(_call_with, head, needed, arguments), *_select(needed, arguments))
            sums, logits_grad = loss(logits, targets, weights)
            block_grads = vjp(logits_grad)
            if hidden_grads is not None:
                hidden_grads = jax.lax.dynamic_update_index_in_dim(hidden_grads, block_grads[0], number, 0)
                block_grads = block_grads[1:]
            return total + sums, jax.tree.map(jnp.add, grads, tuple(block_grads)), hidden_grads

        (x, targets, weights), filled, restore = _in_blocks(rows, size)
        grads = jax.tree.map(jnp.zeros_like, tuple(_select(needed[1:], parameters)))
        no_sums = _no_sums(head, loss, (x, targets, weights), parameters)
        initial = (no_sums, grads, jnp.zeros_like(x) if needed[0] else None)
        numbered = (jnp.arange(len(x)), (x, targets, weights))
        total, grads, hidden_grads = _over_blocks(block, initial, numbered, filled)
        return (total, grads), None if hidden_grads is None else restore(hidden_grads)

    rows = (hidden.value, targets.value, weights.value)
    (total, grads), hidden_grads = on_own_rows(device_sums, tuple(parameter.value for parameter in parameters), rows)
    rest = iter(grads)
    return total, (tuple(next(rest) if one else None for one in needed[1:]), hidden_grads)


def _select(needed: list[bool], values: tuple[jax.Array, ...]) -> list[jax.Array]:
    return [value for one, value in zip(needed, values, strict=True) if one]


def _call_with(
    head: Callable[..., jax.Array], needed: list[bool], values: tuple[jax.Array, ...], *selected: jax.Array
) -> jax.Array:
    """Return head(*values) with `selected` in place of the values that `_select` returns."""
    rest = iter(selected)
    return head(*(next(rest) if one else value for one, value in zip(needed, values, strict=True)))


def _backward(head: Any, loss: Blocked, size: int, residuals: tuple[Any, Any], cotangent: LossSums) -> tuple[Any, ...]:
    grads, hidden_grads = jax.tree.map(lambda x: (x * cotangent.objective).astype(x.dtype), residuals)
    return grads, hidden_grads, None, None


_head_loss.defvjp(_forward, _backward, symbolic_zeros=True)


def _in_blocks(rows: tuple[jax.Array, ...], size: int) -> tuple[Any, Any, Callable[[jax.Array], jax.Array]]:
    """Return the blocks [blocks size ...] of hidden, targets and weights, whether each block has weight, and the inverse for gradients.

    Positions with weight come first.
    """
    hidden, targets, weights = rows
    shape = weights.shape
    local = weights.size
    count = -(-local // size)
    if count == 1:
        blocks = tuple(x.reshape(1, local, *x.shape[2:]) for x in rows)
        return blocks, jnp.ones(1, bool), lambda grads: grads.reshape(*shape, -1)
    order = jnp.argsort(weights.reshape(-1) == 0, stable=True)

    def block(x: jax.Array) -> jax.Array:
        x = jnp.asarray(x).reshape(local, *x.shape[2:])[order]
        return jnp.pad(x, ((0, count * size - local),) + ((0, 0),) * (x.ndim - 1)).reshape(count, size, *x.shape[1:])

    def restore(grads: jax.Array) -> jax.Array:
        return grads.reshape(count * size, -1)[jnp.argsort(order)].reshape(*shape, -1)

    blocks = tuple(map(block, (hidden, targets, weights)))
    return blocks, jnp.any(blocks[2] != 0, axis=1), restore


def _over_blocks(function: Callable[[Any, Any], Any], initial: Any, parts: Any, filled: jax.Array) -> Any:
    """Fold over the blocks that have weight."""
    if len(filled) == 1:
        return function(initial, jax.tree.map(lambda x: x[0], parts))

    def body(carry: Any, item: Any) -> tuple[Any, None]:
        part, has_weight = item
        return jax.lax.cond(has_weight, function, lambda carry, _: carry, carry, part), None

    return jax.lax.scan(body, initial, (parts, filled))[0]


def _no_sums(head: Callable[..., jax.Array], loss: _Loss, parts: Any, parameters: Any) -> LossSums:
    """Return sums of 0, of the structure that a block has."""
    x, targets, weights = jax.tree.map(lambda part: part[0], parts)
    sums = jax.eval_shape(lambda: loss(head(x, *parameters), targets, weights)[0])
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), sums)
