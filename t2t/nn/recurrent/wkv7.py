"""The WKV operator of RWKV-7: a memory that decays by channel and replaces what it has for a key (Peng et al. 2025, https://arxiv.org/abs/2503.14456).

    memory[t] = memory[t - 1] (diag(decay[t]) + removal[t] replacement[t]^T) + value[t] key[t]^T        output[t] = memory[t] receptance[t]

The memory of a head has an axis of values V and an axis of keys K. In RWKV-7, removal is the negated, normalized key, and replacement is the normalized key
times the in-context learning rate of each channel: a delta rule with a learning rate for each channel.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from t2t.nn.recurrent.chunk_scan import Belonging, over_chunks
from t2t.nn.recurrent.segments import real
from t2t.nn.recurrent.triangular import solve_unit_lower
from t2t.types import Array as AnyArray

LARGEST_CHUNK = 64
"""Decays of this many tokens, each at least exp(-exp(-1/2)), have a product whose inverse is finite in float32."""


class Terms(NamedTuple):
    """What tokens read and write, in float32. log_decay: logarithm of the decay, between -exp(-1/2) and 0."""

    receptance: Float[Array, "B L H K"]
    log_decay: Float[Array, "B L H K"]
    key: Float[Array, "B L H K"]
    value: Float[Array, "B L H V"]
    removal: Float[Array, "B L H K"]
    replacement: Float[Array, "B L H K"]


def wkv7_step(memory: Float[Array, "B H V K"], terms: Terms) -> tuple[Float[Array, "B 1 H V"], Float[Array, "B H V K"]]:
    """Return the output of one more token in each row, and the memory after it."""
    receptance, log_decay, key, value, removal, replacement = (x[:, 0] for x in terms)
    removed = jnp.einsum("bhvk,bhk->bhv", memory, removal)
    memory = memory * jnp.exp(log_decay)[:, :, None]
    memory = memory + removed[..., None] * replacement[:, :, None] + value[..., None] * key[:, :, None]
    return jnp.einsum("bhvk,bhk->bhv", memory, receptance)[:, None], memory


def wkv7(
    terms: Terms, segments: Int[AnyArray, "B L"], chunk: int
) -> tuple[Float[Array, "B L H V"], Float[Array, "B H V K"]]:
    """Return the outputs of whole rows, and the memory after the last token of each row.

    The memory begins with zeros in each example. Padding changes nothing in the memory, and the outputs at padding have no meaning.

    In a chunk, what each token removes depends on what the tokens before it wrote and removed: a triangular system of equations. With its solution, the rest
    are products with masks, as in linear attention. With a chunk of 1, it is the recurrence.

    chunk: length C of a chunk in tokens, at most `LARGEST_CHUNK`. Each token and head takes 4 C K + 4 C V + 4 K V + (C^2 - 1) / 3
    multiplications if C is a power of two.
    """
    tokens = real(segments)[..., None, None]
    receptance, log_decay, key, value, removal, replacement = terms
    # A token of padding does not let the memory decay, and writes and removes nothing.
    log_decay, key, removal = (jnp.where(tokens, x, 0.0) for x in (log_decay, key, removal))
    given = Terms(receptance, log_decay, key, value, removal, replacement)
    memory = jnp.zeros((*value.shape[:1], *value.shape[2:], key.shape[-1]), jnp.float32)
    return over_chunks(_chunk, memory, given, segments, min(chunk, value.shape[1]))


def _chunk(
    memory: Float[Array, "B H V K"], terms: Terms, belonging: Belonging
) -> tuple[Float[Array, "B H V K"], Float[Array, "B C H V"]]:
    """Return the memory after a chunk, and its outputs."""
    receptance, log_decay, key, value, removal, replacement = terms
    total = jnp.cumsum(log_decay, axis=1)
    # The decay between two tokens is a quotient of the decays since the beginning of the chunk.
    reading, removing = receptance * jnp.exp(total), removal * jnp.exp(total - log_decay)
    written, replaced = key * jnp.exp(-total), replacement * jnp.exp(-total)
    seen = belonging.pairs[:, None]
    earlier = seen & ~jnp.eye(total.shape[1], dtype=bool)
    reads = belonging.reads[..., None, None]

    def products(one: jax.Array, other: jax.Array, pairs: jax.Array) -> jax.Array:
        return jnp.where(pairs, jnp.einsum("bihk,bjhk->bhij", one, other), 0.0)

    def from_memory(one: jax.Array) -> jax.Array:
        return jnp.where(reads, jnp.einsum("bihk,bhvk->bihv", one, memory), 0.0)

    known = from_memory(removing) + jnp.einsum("bhij,bjhv->bihv", products(removing, written, earlier), value)
    # removed[i] - sum over j < i of (removing[i] . replaced[j]) removed[j] = known[i]
    system = -products(removing, replaced, earlier)
    removed: jax.Array = solve_unit_lower(system, jnp.moveaxis(known, 1, 2))
    out = from_memory(reading)
    out += jnp.einsum("bhij,bhjv->bihv", products(reading, replaced, seen), removed)
    out += jnp.einsum("bhij,bjhv->bihv", products(reading, written, seen), value)

    left = jnp.where(belonging.writes[..., None, None], jnp.exp(total[:, -1:] - total), 0.0)
    kept = jnp.where(belonging.keeps[:, None, None], jnp.exp(total[:, -1]), 0.0)
    memory = memory * kept[:, :, None]
    memory += jnp.einsum("bhjv,bjhk->bhvk", removed, replacement * left)
    memory += jnp.einsum("bjhv,bjhk->bhvk", value, key * left)
    return memory, out
