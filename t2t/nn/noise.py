"""Fast random sampling with a hash of the key and the index, like dropout's masks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from t2t.nn.dropout import hashed


def gumbel(key: jax.Array, shape: tuple[int, ...]) -> Float[Array, "*S"]:
    """Return Gumbel noise, float32 and finite. It does not depend on how devices divide the array."""
    # 23 bits and a half: float32 can still distinguish these values from 0 and 1, whose logarithms would be infinite.
    uniform = ((hashed(key, shape) >> 9).astype(jnp.float32) + 0.5) * jnp.float32(2**-23)
    return -jnp.log(-jnp.log(uniform))


def sample(key: jax.Array, logits: Float[Array, "*B V"]) -> Int[Array, "*B"]:
    """Sample ids from the softmax of float32 logits, as the argmax of logits plus Gumbel noise (Maddison et al. 2014). There is no gradient."""
    logits = jax.lax.stop_gradient(logits)
    return jnp.argmax(logits + gumbel(key, logits.shape), axis=-1).astype(jnp.int32)
