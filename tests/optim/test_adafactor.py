"""Adafactor against the paper's algorithm written out in NumPy, and stacked layers against a list of layers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t.optim import Adafactor, Constant, InverseSquareRoot
from tests.optim.stacked_toy import STACKED, random_like, run, spec, unstack

SMALL = Adafactor(min_dimension=4, schedule=InverseSquareRoot(peak=0.1, warmup=2))


def rms(x):
    return np.sqrt(np.mean(np.square(x)))


def algorithm(x, gradients, rates, *, factored, clip=1.0, eps1=1e-30, eps2=1e-3):
    """Shazeer & Stern 2018, Algorithms 4 and 5 (no momentum, relative steps), in float64."""
    x = x.astype(np.float64)
    row = column = whole = 0.0
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        g = g.astype(np.float64)
        beta = 1 - t**-0.8
        square = g**2 + eps1
        if factored:
            row = beta * row + (1 - beta) * square.sum(-1)
            column = beta * column + (1 - beta) * square.sum(-2)
            v = np.outer(row, column) / row.sum()
        else:
            v = whole = beta * whole + (1 - beta) * square
        u = g / np.sqrt(v)
        u = u / max(1.0, rms(u) / clip)
        x = x - rate * max(eps2, rms(x)) * u
    return x


@pytest.mark.parametrize(("shape", "factored"), [((8, 5), True), ((5, 8), True), ((8, 3), False), ((9,), False)])
def test_equals_the_papers_algorithm(shape, factored):
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape).astype(np.float32)
    gradients = rng.normal(size=(5, *shape)).astype(np.float32) * 10.0 ** rng.integers(-2, 2, size=(5, *shape))
    axes = ("embed", "mlp")[: len(shape)]
    transform = SMALL.build({"w": spec(shape, *axes)})
    got, _ = run(transform, {"w": jnp.asarray(x)}, [{"w": jnp.asarray(g, jnp.float32)} for g in gradients])
    rates = [0.1, 0.1, 0.1, *(0.1 * np.sqrt(2 / n) for n in (3, 4))]
    want = algorithm(x, gradients.astype(np.float32), rates, factored=factored)
    np.testing.assert_allclose(got["w"], want, rtol=2e-5, atol=1e-6)


def test_a_projection_to_heads_is_factored_as_a_matrix():
    rng = np.random.default_rng(1)
    x, gradients = rng.normal(size=(6, 2, 4)), rng.normal(size=(3, 6, 2, 4))
    x, gradients = x.astype(np.float32), gradients.astype(np.float32)
    config = dataclasses.replace(SMALL, schedule=Constant(peak=0.1))
    transform = config.build({"w": spec((6, 2, 4), "embed", "heads", "kv")})
    got, _ = run(transform, {"w": jnp.asarray(x)}, [{"w": jnp.asarray(g)} for g in gradients])
    want = algorithm(x.reshape(6, 8), gradients.reshape(3, 6, 8), [0.1] * 3, factored=True)
    np.testing.assert_allclose(got["w"].reshape(6, 8), want, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("config", [SMALL, dataclasses.replace(SMALL, weight_decay=0.1, clip_norm=1.0)])
def test_stacked_layers_equal_a_list_of_layers(config):
    params = random_like(STACKED, 0)
    gradients = [random_like(STACKED, seed) for seed in (1, 2, 3)]
    stacked, _ = run(config.build(STACKED), params, gradients)
    listed, _ = run(
        config.build(unstack(STACKED, STACKED)), unstack(params, STACKED), [unstack(g, STACKED) for g in gradients]
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), unstack(stacked, STACKED), listed)


def test_state_of_a_factored_matrix_is_a_row_and_a_column():
    transform = Adafactor().build({"w": spec((256, 512), "embed", "mlp")})
    state = jax.eval_shape(transform.init, {"w": jax.ShapeDtypeStruct((256, 512), jnp.float32)})
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) < 256 + 512 + 8
