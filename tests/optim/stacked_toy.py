"""Parameters of a small synthetic encoder-decoder, stacked and unstacked."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from t2t.nn.model import ParamSpec


def spec(shape, *axes, decay=True):
    return ParamSpec(shape, jnp.float32, axes, decay)


STACKED = {
    "embedding": spec((12, 6), "vocab", "embed"),
    "encoder": {
        "query": spec((3, 6, 2, 4), "layers", "embed", "heads", "kv"),
        "out": spec((3, 2, 4, 6), "layers", "heads", "kv", "embed"),
        "mlp": spec((3, 6, 6), "layers", "embed", "mlp"),
        "norm": spec((3, 6), "layers", "embed", decay=False),
    },
    "decoder": {"mlp": spec((2, 6, 10), "layers", "embed", "mlp"), "norm": spec((6,), "embed", decay=False)},
}


def is_spec(leaf):
    return isinstance(leaf, ParamSpec)


def random_like(specs, seed, scale=1.0):
    rng = np.random.default_rng(seed)
    # The layers have very different scales, so an operation across layers would be noticed.
    return jax.tree.map(
        lambda s: jnp.asarray(
            scale * rng.normal(size=s.shape) * 10.0 ** np.arange(s.shape[0]).reshape(-1, *[1] * (len(s.shape) - 1)),
            jnp.float32,
        ),
        specs,
        is_leaf=is_spec,
    )


def run(transform, params, gradients):
    state = transform.init(params)
    update = jax.jit(transform.update)
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def unstack(tree, specs):
    """Split each stacked leaf into a dict of its layers."""

    def split(leaf, s):
        if s.axes[0] != "layers":
            return leaf
        if isinstance(leaf, ParamSpec):
            return {f"layer_{i}": ParamSpec(s.shape[1:], s.dtype, s.axes[1:], s.decay) for i in range(s.shape[0])}
        return {f"layer_{i}": leaf[i] for i in range(s.shape[0])}

    return jax.tree.map(split, tree, specs, is_leaf=is_spec)
