"""Dropout (Srivastava et al. 2014) and its random keys."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from contextvars import ContextVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt32


class Keys:
    """Derives a sequence of keys from one key. Without a key, it always returns None.

    Keys depend only on the order of the calls, so a traced function uses the same keys each time.

    first: number of the first key. Sequences from one key with ranges of numbers that do not overlap are independent of each other.
    """

    def __init__(self, key: jax.Array | None, first: int = 0) -> None:
        self._key = key
        self._count = first

    def next(self) -> jax.Array | None:
        """Return the next key, or None without a key. No key is returned twice."""
        if self._key is None:
            return None
        self._count += 1
        return jax.random.fold_in(self._key, self._count)

    def for_adapters(self) -> Keys:
        """Return a sequence of its own for the adapters of linear layers. So a model with adapters has the dropout of its base model."""
        return Keys(self._key, _ADAPTERS)


_ADAPTERS = 2**24
"""Number of the first key of adapters, more than the number of other keys in any layer."""
_adapter_keys: ContextVar[Keys] = ContextVar("adapter_keys")


@contextlib.contextmanager
def adapter_dropout(keys: Keys) -> Iterator[None]:
    """Context in which `adapter_key` takes keys from `keys.for_adapters()`. Open it around a trace.

    Mixers and feed-forward layers call their linear layers without keys, so that layers of the user's own need no code for adapters.
    """
    token = _adapter_keys.set(keys.for_adapters())
    try:
        yield
    finally:
        _adapter_keys.reset(token)


def adapter_key() -> jax.Array | None:
    """Return the next key for the dropout of an adapter, or None if there is no dropout."""
    keys = _adapter_keys.get(None)
    return None if keys is None else keys.next()


def dropout(x: Float[Array, "*S"], rate: float, key: jax.Array | None) -> Float[Array, "*S"]:
    """Set entries to zero with probability `rate` and scale the others by 1 / (1 - rate). Without a key, return `x`."""
    if key is None or rate == 0.0:
        return x
    return jnp.where(keep(key, 1.0 - rate, x.shape), x / (1.0 - rate), jnp.zeros((), x.dtype))


def keep(key: jax.Array, probability: float, shape: tuple[int, ...]) -> Bool[Array, "*S"]:
    """Return true with `probability` at each index. The value is a hash of the key and the index."""
    return hashed(key, shape) < jnp.uint32(min(round(probability * 2**32), 2**32 - 1))


def hashed(key: jax.Array, shape: tuple[int, ...]) -> UInt32[Array, "*S"]:
    """Return a 32-bit number at each index, a hash of the key and the index.

    JAX's default generator gives stronger guarantees, but takes most of the compile time of a small model with dropout, and much of its step time on a CPU.
    Like the default generator, and unlike the hardware's, the result does not depend on how devices divide the array.
    """
    data = key if jnp.issubdtype(key.dtype, jnp.integer) else jax.random.key_data(key)
    lead, last = math.prod(shape[:-1]), shape[-1] if shape else 1
    rows = _mix(jax.lax.iota(jnp.uint32, lead) + data[0])
    columns = jax.lax.iota(jnp.uint32, last) * jnp.uint32(0x9E3779B9) + data[-1]
    return _mix(_mix(rows[:, None] ^ columns[None, :]) + rows[:, None]).reshape(shape)


def _mix(x: UInt32[Array, "*S"]) -> UInt32[Array, "*S"]:
    """Mix all bits with "lowbias32", the mixer with the least bias in C. Wellons' search (2018)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
