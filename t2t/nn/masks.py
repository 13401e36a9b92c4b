"""Attention masks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Bool, Int

from t2t.nn.sparse import Sparse
from t2t.types import Array


@struct.dataclass
class Mask:
    """Compact description of an attention mask. Any block of its rows can be computed when needed.

    A query sees the keys of its own segment. Segment 0 is padding: it sees nothing and is not seen. With `causal`, a query only sees keys at its own index or
    before it, only the last `window` of these if there is a window, and also the keys marked in `prefix`. Without `causal`, a query with a `window` sees the
    keys at most `window // 2` positions before or after it; with `exact_window`, those at most `(window - 1) // 2` before and `window // 2` after it. Keys of
    `memory` come after all others, and only segments decide who sees them.

    queries: segment of each query.
    keys:    segment of each key.
    index:   index of each query among the keys, [1 q] if it is the same in all rows. Only used with `causal` or a window.
    key_index: index of each key, if it is not 0, 1, 2, ...: the keys of a cache that is a ring buffer.
    prefix:  1 for keys that every query of their segment sees, or None. These keys are the first of a segment.
    sparse:  with `causal`, the pattern of earlier keys that a query sees. `index` and `key_index` are then positions in the segment.
    memory:  segments of further keys after `keys`, the tokens of an encoder, or None.
    self_attention: the queries are the keys, in the same order: `queries` is `keys` and `index` is 0, 1, 2, ... in every row. Kernels use this to skip blocks
             that no query sees.
    """

    queries: Int[Array, "B q"]
    keys: Int[Array, "B k"]
    index: Int[Array, "#B q"] | None = None
    key_index: Int[Array, "#B k"] | None = None
    prefix: Int[Array, "B k"] | None = None
    memory: Int[Array, "B m"] | None = None
    causal: bool = struct.field(pytree_node=False, default=False)
    window: int | None = struct.field(pytree_node=False, default=None)
    exact_window: bool = struct.field(pytree_node=False, default=False)
    sparse: Sparse | None = struct.field(pytree_node=False, default=None)
    self_attention: bool = struct.field(pytree_node=False, default=False)

    def sees(self) -> Bool[jax.Array, "B q"]:
        """Return which queries see at least one key."""
        if self.self_attention and self.sparse is None:
            return jnp.asarray(self.queries) > 0  # itself
        return jnp.any(self.dense(), axis=-1)[:, 0]

    @property
    def reach(self) -> tuple[int, int]:
        """Number of keys before a query and after it that it sees in its window, if the mask is not causal."""
        assert self.window is not None, "a mask with a window"
        return (self.window - 1) // 2 if self.exact_window else self.window // 2, self.window // 2

    def dense(self) -> Bool[jax.Array, "B 1 q km"]:
        """Return the mask with an axis for the heads: true if a query sees a key. The keys of `memory` follow the others."""
        seen = self._dense_keys()
        if self.memory is not None:
            queries, memory = jnp.asarray(self.queries)[:, :, None], jnp.asarray(self.memory)[:, None, :]
            seen = jnp.concatenate([seen, (queries == memory) & (memory > 0)], axis=-1)
        return seen[:, None]

    def _dense_keys(self) -> Bool[jax.Array, "B q k"]:
        queries, keys = jnp.asarray(self.queries), jnp.asarray(self.keys)
        seen = (queries[:, :, None] == keys[:, None, :]) & (keys > 0)[:, None, :]
        if self.causal:
            assert self.index is not None, "a causal mask needs the queries' index"
            key_index, query_index = self._key_index(), jnp.asarray(self.index)[:, :, None]
            past = key_index <= query_index
            if self.window is not None:
                past = past & (key_index > query_index - self.window)
            if self.sparse is not None:
                past = past & self.sparse.sees(query_index, key_index)
            if self.prefix is not None:
                past = past | (jnp.asarray(self.prefix) > 0)[:, None, :]
            seen = seen & past
        elif self.window is not None:
            assert self.index is not None, "a window needs the queries' index"
            distance = self._key_index() - jnp.asarray(self.index)[:, :, None]
            before, after = self.reach
            seen = seen & (distance >= -before) & (distance <= after)
        return seen

    def _key_index(self) -> Int[jax.Array, "#B 1 k"]:
        if self.key_index is None:
            return jnp.arange(self.keys.shape[1])[None, None, :]
        return jnp.asarray(self.key_index)[:, None, :]
