"""Norms, feed-forwards, linear maps, embeddings and dropout against what their papers' formulas give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from t2t.nn.dropout import Keys
from t2t.nn.embeddings import Embedding
from t2t.nn.initializers import Constant, Normal, TruncatedNormal, fan_in
from t2t.nn.linear import Linear, matmul
from t2t.nn.mixers import Context
from t2t.nn.mlp import MLP
from t2t.nn.norms import LayerNorm, RMSNorm
from t2t.nn.parameters import Definition

SEGMENTS = jnp.ones((2, 3), jnp.int32)
NONE = Context(segments=SEGMENTS)


def made(module, **changes):
    definition = Definition(module)
    params = definition.init(jax.random.key(0))
    return definition.bind({**params, **changes}), params


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(7), (2, 3, 8)) * 3 + 1


def test_rms_norm(x):
    scale = jnp.arange(8.0)
    module, _ = made(RMSNorm(8, 1e-6), scale=scale)
    wide = np.asarray(x, np.float64)
    np.testing.assert_allclose(
        module(x), wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-6) * np.arange(8.0), rtol=1e-5
    )


def test_layer_norm(x):
    scale, bias = jnp.arange(8.0), jnp.arange(8.0)[::-1]
    module, _ = made(LayerNorm(8, 1e-5), scale=scale, bias=bias)
    wide = np.asarray(x, np.float64)
    normal = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(module(x), normal * np.asarray(scale) + np.asarray(bias), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [RMSNorm, LayerNorm])
def test_norms_are_computed_in_float32(kind):
    x = (jnp.arange(4096, dtype=jnp.float32) / 16 + 300).astype(jnp.bfloat16)
    module, _ = made(kind(4096, 1e-6))
    exact = module(x.astype(jnp.float32))
    assert module(x).dtype == jnp.bfloat16
    np.testing.assert_array_equal(module(x), exact.astype(jnp.bfloat16))


def activations(name, x):
    if name == "relu":
        return np.maximum(x, 0)
    if name == "gelu":
        return x * (1 + erf(x / np.sqrt(2))) / 2
    return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2


@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh"])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("biases", [True, False])
def test_mlp(x, activation, gated, biases):
    module, params = made(
        MLP(
            8,
            12,
            activation=activation,
            gated=gated,
            biases=biases,
            dropout=0.5,
            init=Normal(1.0),
            out_init=Normal(1.0),
        )
    )
    assert ("bias" in params["up"]) == biases
    assert ("gate" in params) == gated
    wide = np.asarray(x, np.float64)
    inner = activations(activation, wide @ np.asarray(params["gate" if gated else "up"]["kernel"]))
    if gated:
        inner = inner * (wide @ np.asarray(params["up"]["kernel"]))
    found, aux = module(x, NONE)
    assert aux == {}
    np.testing.assert_allclose(found, inner @ np.asarray(params["down"]["kernel"]), rtol=1e-4, atol=1e-4)
    dropped, _ = module(x, Context(segments=SEGMENTS, keys=Keys(jax.random.key(0))))
    assert not np.array_equal(dropped, found)


def test_linear_adds_its_bias(x):
    module, params = made(Linear(8, 5, ("embed", "mlp"), bias=True, init=Normal(1.0)), bias=jnp.arange(5.0))
    np.testing.assert_allclose(module(x), x @ params["kernel"] + jnp.arange(5.0), rtol=1e-5, atol=1e-5)


def test_matmul_computes_in_the_type_of_its_input(x):
    kernel = jnp.ones((8, 3))
    assert matmul(x.astype(jnp.bfloat16), kernel).dtype == jnp.bfloat16
    assert matmul(x.astype(jnp.bfloat16), kernel, wide=True).dtype == jnp.float32


def test_embedding_is_a_row_of_its_table_and_shows_ids_beyond_it():
    module, params = made(Embedding(5, 4, axis="vocab", init=Normal(1.0)))
    np.testing.assert_array_equal(module(jnp.array([[3, 0]]), jnp.float32), params["table"][jnp.array([[3, 0]])])
    assert bool(jnp.isnan(module(jnp.array([5]), jnp.float32)).all())
    np.testing.assert_array_equal(module(jnp.array([9]), jnp.float32, outside="clip")[0], params["table"][4])
    hidden = jnp.ones((2, 4))
    np.testing.assert_allclose(module.attend(hidden), hidden @ params["table"].T, rtol=1e-6)


@pytest.mark.parametrize(
    ("init", "std", "limit"),
    [
        (Normal(0.02), 0.02, np.inf),
        (TruncatedNormal(0.02), 0.02, 2 * 0.02 / 0.8796),
        (TruncatedNormal(0.02, exact=False), 0.02 * 0.8796, 0.04),
        (fan_in(64), 1 / 8, 2 / 8 / 0.8796),
        (Constant(3.0), 0.0, 3.0),
    ],
)
def test_initializers_have_their_deviation(init, std, limit):
    values = init(jax.random.key(0), (200, 500))
    assert values.dtype == jnp.float32
    assert float(jnp.std(values)) == pytest.approx(std, rel=0.02, abs=1e-9)
    assert float(jnp.abs(values).max()) <= limit * 1.001
