"""Who may look at whom."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Bool, Int

from t2t.types import Array


@struct.dataclass
class Mask:
    """What a mask is made of, so that any block of its rows can be made when needed.

    A query sees the keys of its own segment; segment 0 is padding, which sees nothing and is not seen. Where `causal`, it sees of those only the
    keys at its own index or before it, of these only the last `window`, and the keys marked in `prefix`. Where not `causal` and there is a `window`, it
    sees those at most `window // 2` places before it or behind it.

    queries: segment of each query.
    keys:    segment of each key.
    index:   place of each query among the keys, one row for all or one for each; only read where causal or with a window.
    prefix:  1 where a key is seen by every query of its segment, later ones or earlier, or None for nowhere. These are the first of a segment.
    self_attention: the queries are the keys, in the same places: `queries` is `keys` and `index` is 0, 1, 2, ... in every row. Kernels leave out
             by it what no query sees.
    """

    queries: Int[Array, "B q"]
    keys: Int[Array, "B k"]
    index: Int[Array, "#B q"] | None = None
    prefix: Int[Array, "B k"] | None = None
    causal: bool = struct.field(pytree_node=False, default=False)
    window: int | None = struct.field(pytree_node=False, default=None)
    self_attention: bool = struct.field(pytree_node=False, default=False)

    def sees(self) -> Bool[jax.Array, "B q"]:
        """Return which queries see a key."""
        if self.self_attention:
            return jnp.asarray(self.queries) > 0  # itself
        return jnp.any(self.dense(), axis=-1)[:, 0]

    def dense(self) -> Bool[jax.Array, "B 1 q k"]:
        """Return the mask, true where a query sees a key, with an axis for the heads."""
        queries, keys = jnp.asarray(self.queries), jnp.asarray(self.keys)
        seen = (queries[:, :, None] == keys[:, None, :]) & (keys > 0)[:, None, :]
        if self.causal:
            assert self.index is not None, "a causal mask needs the queries' index"
            place, own = jnp.arange(keys.shape[1])[None, None, :], jnp.asarray(self.index)[:, :, None]
            past = place <= own
            if self.window is not None:
                past = past & (place > own - self.window)
            if self.prefix is not None:
                past = past | (jnp.asarray(self.prefix) > 0)[:, None, :]
            seen = seen & past
        elif self.window is not None:
            assert self.index is not None, "a window needs the queries' index"
            away = jnp.arange(keys.shape[1])[None, None, :] - jnp.asarray(self.index)[:, :, None]
            seen = seen & (jnp.abs(away) <= self.window // 2)
        return seen[:, None]
