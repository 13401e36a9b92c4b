"""Linear attention with decay: each head has a memory, a matrix to which each token adds the product of its key and its value.

    memory[t] = decay[t] * memory[t - 1] + key[t] value[t]^T        output[t] = memory[t]^T query[t]

RetNet (Sun et al. 2023) has one constant decay for each head, and gated linear attention (Yang et al. 2023) one for each token and each coordinate of the
key. Both are computed token by token (`after`) or in chunks (`over_rows`). A single chunk is the parallel form: attention without a softmax.
"""

from __future__ import annotations

import abc
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from t2t.nn.aux import Aux
from t2t.nn.mixers import Context, Mixer
from t2t.nn.recurrent.chunk_scan import Belonging, over_chunks, pair_decay
from t2t.nn.recurrent.segments import real
from t2t.nn.state import State
from t2t.types import Array as AnyArray

BLOCK = 16
"""With a decay for each coordinate, pairs in the same block of this many tokens have one product for each coordinate instead of a matrix product."""


class Terms(NamedTuple):
    """What tokens read and write.

    log_decay: logarithm of the decay, at most 0: one for each head, or one for each coordinate of its key.
    """

    query: Float[Array, "B L H K"]
    key: Float[Array, "B L H K"]
    value: Float[Array, "B L H V"]
    log_decay: Float[Array, "B L H"] | Float[Array, "B L H K"]

    @property
    def by_coordinate(self) -> bool:
        """Whether each coordinate of a key has its own decay."""
        return self.log_decay.ndim == self.key.ndim


@struct.dataclass
class Memory(State):
    """The memory of each head after the tokens so far, in float32. Its size does not depend on their number."""

    memory: Float[Array, "B H K V"]


def after(memory: Float[Array, "B H K V"], terms: Terms) -> tuple[Float[Array, "B 1 H V"], Float[Array, "B H K V"]]:
    """Return the output of one more token in each row, and the memory after it."""
    query, key, value, log_decay = (x[:, 0].astype(jnp.float32) for x in terms)
    decay = jnp.exp(log_decay if terms.by_coordinate else log_decay[..., None])
    memory = decay[..., None] * memory + key[..., :, None] * value[..., None, :]
    return jnp.einsum("bhk,bhkv->bhv", query, memory)[:, None], memory


def over_rows(
    terms: Terms, segments: Int[AnyArray, "B L"], size: int | None
) -> tuple[Float[Array, "B L H V"], Float[Array, "B H K V"]]:
    """Return the outputs of whole rows, computed in float32, and the memory after the last token of each row.

    Padding writes nothing and does not decay the memory. The outputs at padding have no meaning.

    size: length C of a chunk in tokens; None means one chunk, the parallel form. Each token and head takes C (K + V) + 2 K V multiplications.
    """
    tokens = real(segments)[..., None]
    query, key, value, log_decay = (x.astype(jnp.float32) for x in terms)
    key = jnp.where(tokens[..., None], key, 0.0)
    log_decay = jnp.where(tokens[..., None] if terms.by_coordinate else tokens, log_decay, 0.0)
    # Rows that are shorter than a chunk are one chunk, with whole blocks.
    block = math.gcd(BLOCK, size or BLOCK) if terms.by_coordinate else 1
    longest = -(-value.shape[1] // block) * block
    size = longest if size is None else min(size, longest)

    def chunk(memory: Any, parts: Any, belonging: Belonging) -> tuple[Any, Array]:
        return (
            _by_coordinate(memory, parts, belonging, block) if terms.by_coordinate else _alike(memory, parts, belonging)
        )

    start = jnp.zeros((value.shape[0], *value.shape[2:3], key.shape[-1], value.shape[-1]), jnp.float32)
    return over_chunks(chunk, start, Terms(query, key, value, log_decay), segments, size)


def _alike(memory: Float[Array, "B H K V"], terms: Terms, belonging: Belonging) -> tuple[jax.Array, jax.Array]:
    """Return the memory after a chunk and its outputs, if all coordinates of a head decay alike."""
    query, key, value, log_decay = terms
    total = jnp.cumsum(log_decay, axis=1)
    scores = jnp.einsum("bihk,bjhk->bhij", query, key) * pair_decay(total, belonging.pairs)
    begun = jnp.where(belonging.reads[..., None], jnp.exp(total), 0.0)
    out = jnp.einsum("bhij,bjhv->bihv", scores, value)
    out += jnp.einsum("bihk,bhkv->bihv", query, memory) * begun[..., None]
    left = jnp.where(belonging.writes[..., None], jnp.exp(total[:, -1:] - total), 0.0)
    kept = jnp.where(belonging.keeps[:, None], jnp.exp(total[:, -1]), 0.0)
    written = jnp.einsum("bjhk,bjhv->bhkv", key * left[..., None], value)
    return kept[..., None, None] * memory + written, out


def _by_coordinate(
    memory: Float[Array, "B H K V"], terms: Terms, belonging: Belonging, block: int
) -> tuple[jax.Array, jax.Array]:
    """Return the memory after a chunk and its outputs, if each coordinate of a key has its own decay."""
    query, key, value, log_decay = terms
    total = jnp.cumsum(log_decay, axis=1)
    scores = jnp.where(belonging.pairs[:, None], _scores(query, key, total, block), 0.0)
    begun = jnp.where(belonging.reads[..., None, None], jnp.exp(total), 0.0)
    out = jnp.einsum("bhij,bjhv->bihv", scores, value) + jnp.einsum("bihk,bhkv->bihv", query * begun, memory)
    left = jnp.where(belonging.writes[..., None, None], jnp.exp(total[:, -1:] - total), 0.0)
    kept = jnp.where(belonging.keeps[:, None, None], jnp.exp(total[:, -1]), 0.0)
    return kept[..., None] * memory + jnp.einsum("bjhk,bjhv->bhkv", key * left, value), out


def _scores(
    query: Float[Array, "B C H K"], key: Float[Array, "B C H K"], total: Float[Array, "B C H K"], block: int
) -> Float[Array, "B H C C"]:
    """Return the product of each query with each earlier key, decayed coordinate by coordinate. Other pairs have no meaning.

    The chunk has blocks of `block` tokens (Yang et al. 2023, section 4.3). For a pair in different blocks, the decay is the product of that from the key to the
    beginning of the query's block and that from there to the query. Neither is more than 1, so no exponential is infinite.
    """
    rows, size, heads, width = query.shape
    blocks = size // block

    def split(x: jax.Array) -> jax.Array:
        return x.reshape(rows, blocks, block, heads, width)

    totals = split(total)
    # Sum of the logarithms up to the token before each block.
    begins = jnp.pad(totals[:, :-1, -1:], ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0)))
    earlier = (jnp.arange(size) // block)[None, :] < jnp.arange(blocks)[:, None]
    exponents = jnp.where(earlier[..., None, None], begins - total[:, None], -jnp.inf)
    queries, keys = split(query) * jnp.exp(totals - begins), key[:, None] * jnp.exp(exponents)
    apart = jnp.einsum("bmihk,bmjhk->bhmij", queries, keys).reshape(rows, heads, blocks, block, blocks, block)
    near = _near(split(query), split(key), totals)[:, :, :, :, None]
    own = jnp.eye(blocks, dtype=bool)[:, None, :, None]
    return jnp.where(own, near, apart).reshape(rows, heads, size, size)


def _near(
    query: Float[Array, "B M C H K"], key: Float[Array, "B M C H K"], total: Float[Array, "B M C H K"]
) -> Float[Array, "B H M C C"]:
    """Return the scores of the pairs inside each block."""
    size = query.shape[2]
    past = jnp.tril(jnp.ones((size, size), bool))[:, :, None, None]
    exponents = jnp.where(past, total[:, :, :, None] - total[:, :, None], -jnp.inf)
    scores = jnp.sum(query[:, :, :, None] * key[:, :, None] * jnp.exp(exponents), axis=-1)
    return jnp.moveaxis(scores, -1, 1)


class LinearAttention(Mixer):
    """A mixer of heads with a decaying memory. A subclass computes what tokens read and write, and the output from what the heads read.

    chunk: length of a chunk, see `over_rows`.
    """

    chunk: int | None

    @abc.abstractmethod
    def terms(self, x: Float[Array, "B L D"], context: Context) -> Terms:
        """Return what tokens read and write."""

    @abc.abstractmethod
    def output(self, x: Float[Array, "B L D"], read: Float[Array, "B L H V"]) -> Float[Array, "B L D"]:
        """Return the output of the layer. x: its input; read: what the heads read, in float32."""

    def __call__(self, x: Float[Array, "B L D"], context: Context) -> tuple[Float[Array, "B L D"], Aux]:
        """Mix whole rows."""
        return self._rows(x, context)[0], {}

    def prefill(self, x: Float[Array, "B L D"], context: Context, length: int) -> tuple[Float[Array, "B L D"], Memory]:
        """Mix whole rows. The state holds the memory after the last token of each row."""
        y, memory = self._rows(x, context)
        return y, Memory(memory=memory)

    def step(
        self, x: Float[Array, "B 1 D"], state: Any, context: Context, shared: Any = None
    ) -> tuple[Float[Array, "B 1 D"], Memory]:
        """Mix one more position per row."""
        read, memory = after(state.memory, self.terms(x, context))
        return self.output(x, read), Memory(memory=memory)

    def _rows(
        self, x: Float[Array, "B L D"], context: Context
    ) -> tuple[Float[Array, "B L D"], Float[Array, "B H K V"]]:
        read, memory = over_rows(self.terms(x, context), context.segments, self.chunk)
        return self.output(x, read), memory
