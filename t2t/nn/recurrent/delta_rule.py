"""The gated delta rule: the memory of a head decays, and each token replaces what the memory has for its key by its value (Yang et al. 2024).

    decayed = decay[t] * memory[t - 1]
    memory[t] = decayed + key[t] change[t]^T, where change[t] = rate[t] * (value[t] - decayed^T key[t])        output[t] = memory[t]^T query[t]

"Gated Delta Networks: Improving Mamba2 with Delta Rule", https://arxiv.org/abs/2412.06464. Keys have length 1, and rates are between 0 and 1.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from t2t.nn.recurrent.chunk_scan import Belonging, over_chunks, pair_decay
from t2t.nn.recurrent.segments import real
from t2t.nn.recurrent.triangular import solve_unit_lower
from t2t.types import Array as AnyArray


class DeltaTerms(NamedTuple):
    """What tokens read and write.

    log_decay: logarithm of the decay, at most 0.
    rate:      share of what the memory has for the key that is replaced.
    """

    query: Float[Array, "B L H K"]
    key: Float[Array, "B L H K"]
    value: Float[Array, "B L H V"]
    log_decay: Float[Array, "B L H"]
    rate: Float[Array, "B L H"]


def after(
    memory: Float[Array, "B H K V"], terms: DeltaTerms
) -> tuple[Float[Array, "B 1 H V"], Float[Array, "B H K V"]]:
    """Return the output of one more token in each row, and the memory after it."""
    query, key, value, log_decay, rate = (x[:, 0].astype(jnp.float32) for x in terms)
    memory = memory * jnp.exp(log_decay)[..., None, None]
    change = rate[..., None] * (value - jnp.einsum("bhk,bhkv->bhv", key, memory))
    memory = memory + key[..., :, None] * change[..., None, :]
    return jnp.einsum("bhk,bhkv->bhv", query, memory)[:, None], memory


def over_rows(
    terms: DeltaTerms, segments: Int[AnyArray, "B L"], size: int
) -> tuple[Float[Array, "B L H V"], Float[Array, "B H K V"]]:
    """Return the outputs of whole rows, computed in float32, and the memory after the last token of each row.

    In a chunk, the change of each token depends on the changes of the tokens before it: a triangular system of equations, which stands for the product of
    matrices I - rate key key^T (the WY representation; Yang et al. 2024, section 3.3). With its solution, the rest is as in linear attention.

    Padding changes nothing in the memory. The outputs at padding have no meaning.

    size: length C of a chunk in tokens. Each token and head takes 2 C (K + V) + (C^2 - 1) / 3 + 3 K V multiplications if C is a power of two.
    """
    tokens = real(segments)[..., None]
    query, key, value, log_decay, rate = (x.astype(jnp.float32) for x in terms)
    given = DeltaTerms(query, key, value, jnp.where(tokens, log_decay, 0.0), jnp.where(tokens, rate, 0.0))
    start = jnp.zeros((*value.shape[:1], value.shape[2], key.shape[-1], value.shape[-1]), jnp.float32)
    return over_chunks(_chunk, start, given, segments, min(size, value.shape[1]))


def _chunk(
    memory: Float[Array, "B H K V"], terms: DeltaTerms, belonging: Belonging
) -> tuple[Float[Array, "B H K V"], Float[Array, "B C H V"]]:
    """Return the memory after a chunk, and its outputs."""
    query, key, value, log_decay, rate = terms
    total = jnp.cumsum(log_decay, axis=1)
    decay = pair_decay(total, belonging.pairs)
    begun = jnp.where(belonging.reads[..., None], jnp.exp(total), 0.0)[..., None]
    known = jnp.einsum("bihk,bhkv->bihv", key, memory) * begun
    # change[i] + sum over j < i of rate[i] decay[i, j] (key[i] . key[j]) change[j] = rate[i] (value[i] - known[i])
    system = jnp.einsum("bihk,bjhk->bhij", rate[..., None] * key, key) * decay
    right = jnp.moveaxis(rate[..., None] * (value - known), 1, 2)
    changes: jax.Array = solve_unit_lower(system, right)
    scores = jnp.einsum("bihk,bjhk->bhij", query, key) * decay
    out = jnp.einsum("bhij,bhjv->bihv", scores, changes) + jnp.einsum("bihk,bhkv->bihv", query, memory) * begun
    left = jnp.where(belonging.writes[..., None], jnp.exp(total[:, -1:] - total), 0.0)
    kept = jnp.where(belonging.keeps[:, None], jnp.exp(total[:, -1]), 0.0)
    written = jnp.einsum("bjhk,bhjv->bhkv", key * left[..., None], changes)
    return kept[..., None, None] * memory + written, out
