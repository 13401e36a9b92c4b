"""A small training state with all parts of a real one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct


@struct.dataclass
class State:
    step: jax.Array
    params: dict
    opt_state: object
    key: jax.Array


TRANSFORM = optax.partition(
    {"a": optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1)), "b": optax.set_to_zero()},
    lambda tree: {key: "b" if key == "frozen" else "a" for key in tree},
)


def make(seed=0, width=5):
    rng = np.random.default_rng(seed)
    params = {
        "encoder": {
            "w": jnp.asarray(rng.normal(size=(8, width)), jnp.float32),
            "b": jnp.asarray(rng.normal(size=3), jnp.bfloat16),
        },
        "frozen": jnp.asarray(rng.normal(size=(2, 2)), jnp.float32),
    }
    state = TRANSFORM.init(params)
    _, state = TRANSFORM.update(jax.tree.map(lambda x: x * 3, params), state, params)
    return State(step=jnp.int32(seed), params=params, opt_state=state, key=jax.random.split(jax.random.key(seed))[1])


def abstract(state, sharding=None):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()
