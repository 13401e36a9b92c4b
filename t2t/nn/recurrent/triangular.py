"""Systems of equations with unit lower triangular matrices, which delta rules solve in each chunk."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Errors of the inverse would grow from token to token, so no product is rounded.
_product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


@jax.custom_vjp
def solve_unit_lower(system: Float[Array, "*B C C"], right: Float[Array, "*B C V"]) -> Float[Array, "*B C V"]:
    """Return x with `(I + strictly lower part of system) @ x = right`, in the type of `right`. The rest of `system` is ignored.

    The inverse is put together from the inverses of smaller and smaller blocks on the diagonal, so all work is matrix products, C (C^2 - 1) / 3 and C^2 V
    multiplications if C is a power of two. As accurate as substitution, unlike the product of the powers of the matrix, which grow if keys are alike.

    `jax.scipy.linalg.solve_triangular` is not used: on a CPU it is a call of LAPACK that waits for other threads of XLA's pool. If as many calls run at the
    same time as there are threads, they wait for each other, and the training hangs (jaxlib 0.10).
    """
    return _product(_inverse(system), right)


def _forward(system: jax.Array, right: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    inverse = _inverse(system)
    x = _product(inverse, right)
    return x, (inverse, x)


def _backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    inverse, x = saved
    of_right = _product(jnp.swapaxes(inverse, -1, -2), gradient)
    return -jnp.tril(_product(of_right, jnp.swapaxes(x, -1, -2)), -1), of_right


solve_unit_lower.defvjp(_forward, _backward)


def _inverse(system: Float[Array, "*B C C"]) -> Float[Array, "*B C C"]:
    """Return the inverse of I + the strictly lower part of `system`.

    [[A, 0], [C, B]] has the inverse [[A', 0], [-B' C A', B']], where A' and B' are those of the blocks. Blocks of one number are 1.
    """
    count = system.shape[-1]
    whole = 1 << (count - 1).bit_length()
    padding = [(0, 0)] * (system.ndim - 2) + [(0, whole - count)] * 2
    system = jnp.pad(system, padding)
    inverse = jnp.ones((*system.shape[:-2], whole, 1, 1), system.dtype)
    size = 1
    while size < whole:
        first, second = inverse[..., ::2, :, :], inverse[..., 1::2, :, :]
        below = jnp.stack(
            [system[..., at + size : at + 2 * size, at : at + size] for at in range(0, whole, 2 * size)], axis=-3
        )
        corner = -_product(second, _product(below, first))
        upper = jnp.concatenate([first, jnp.zeros_like(first)], axis=-1)
        inverse = jnp.concatenate([upper, jnp.concatenate([corner, second], axis=-1)], axis=-2)
        size *= 2
    return inverse[..., 0, :count, :count]
