"""The causal convolution: equal to a loop over tokens, unchanged by packing and padding, and step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t.nn.parameters import Definition
from t2t.nn.recurrent.convolution import CausalConvolution
from t2t.nn.recurrent.segments import epochs, last, starts

CHANNELS = 3
RANDOM = np.random.default_rng(0)
SEGMENTS = np.array([[1, 1, 1, 1, 1, 2, 2, 3, 0, 0], [0, 0, 1, 1, 1, 1, 1, 1, 1, 1], [1] * 10, [0] * 10])
X = RANDOM.normal(size=(*SEGMENTS.shape, CHANNELS)).astype(np.float32)


def drawn(size, bias=True):
    definition = Definition(CausalConvolution(CHANNELS, size, axis="mlp", bias=bias))
    params = jax.tree.map(lambda leaf: jnp.asarray(RANDOM.normal(size=leaf.shape)), definition.init(jax.random.key(0)))
    return definition.bind(params), params


def looped(params, x, segments):
    """Return the convolution of one row, token by token."""
    size, out = len(params["filter"]), np.zeros_like(x)
    for t in range(len(x)):
        for i in range(size):
            at = t - size + 1 + i
            if at >= 0 and segments[at] == segments[t]:
                out[t] += np.asarray(params["filter"][i]) * x[at]
    return out + np.asarray(params.get("bias", 0))


@pytest.mark.parametrize(("size", "bias"), [(4, True), (1, False), (12, True)])
def test_the_output_is_that_of_a_loop_over_tokens(size, bias):
    layer, params = drawn(size, bias)
    wanted = [looped(params, x, segments) for x, segments in zip(X, SEGMENTS, strict=True)]
    np.testing.assert_allclose(layer(X, SEGMENTS), wanted, atol=1e-5)


@pytest.mark.parametrize("size", [4, 1, 12])
def test_steps_after_a_prompt_equal_the_whole_row(size):
    layer, _ = drawn(size)
    # A row with padding at the end, one with padding at the start, one without and an empty prompt.
    lengths = np.array([7, 4, 10, 0])
    prompts = np.zeros((4, 10), int)
    texts = RANDOM.normal(size=(4, 13, CHANNELS)).astype(np.float32)
    x = RANDOM.normal(size=(4, 10, CHANNELS)).astype(np.float32)
    for row, (length, begin) in enumerate(zip(lengths, (0, 6, 0, 0), strict=True)):
        prompts[row, begin : begin + length] = 1
        x[row, begin : begin + length] = texts[row, :length]
    whole = np.asarray(layer(texts, np.ones((4, 13), int)))
    past = layer.past(x, prompts)
    assert past.shape == (4, size - 1, CHANNELS)
    for step in range(3):
        rows = np.arange(4)
        y, past = layer.step(texts[rows, lengths + step][:, None], past)
        np.testing.assert_allclose(y[:, 0], whole[rows, lengths + step], atol=1e-5)


def test_the_state_is_that_of_the_last_example_of_a_row():
    layer, _ = drawn(4)
    past = np.asarray(layer.past(X, SEGMENTS))
    np.testing.assert_array_equal(past[0], np.stack([0 * X[0, 0], 0 * X[0, 0], X[0, 7]]))
    np.testing.assert_array_equal(past[1], X[1, 7:])
    assert not past[3].any()


@pytest.mark.parametrize("size", [4, 12])
def test_the_gradient_is_that_of_the_loop(size):
    _, params = drawn(size)
    definition = Definition(CausalConvolution(CHANNELS, size, axis="mlp", bias=True))
    weights = RANDOM.normal(size=X.shape)

    def summed(params, x):
        return jnp.sum(definition.bind(params)(x, SEGMENTS) * weights)

    of_params, of_x = jax.grad(summed, argnums=(0, 1))(params, jnp.asarray(X))
    rows, length = SEGMENTS.shape
    wanted_x, wanted = np.zeros_like(X), np.zeros((size, CHANNELS))
    for r, t, i in np.ndindex(rows, length, size):
        at = t - size + 1 + i
        if at >= 0 and SEGMENTS[r, at] == SEGMENTS[r, t]:
            wanted[i] += weights[r, t] * X[r, at]
            wanted_x[r, at] += weights[r, t] * np.asarray(params["filter"][i])
    np.testing.assert_allclose(of_x, wanted_x, atol=1e-5)
    np.testing.assert_allclose(of_params["filter"], wanted, atol=1e-4)
    np.testing.assert_allclose(of_params["bias"], weights.sum((0, 1)), atol=1e-4)


def test_nothing_flows_between_examples():
    layer, _ = drawn(4)
    gradient = jax.grad(lambda x: jnp.sum(layer(x, SEGMENTS)[0, 5:8] ** 2))(jnp.asarray(X))
    assert np.flatnonzero(np.abs(gradient).sum((0, 2))).tolist() == [5, 6, 7]


def test_half_precision_is_kept_and_sums_are_not_rounded_in_between():
    layer, _ = drawn(4)
    x = jnp.asarray(X, jnp.bfloat16)
    out = layer(x, SEGMENTS)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out, layer(x.astype(jnp.float32), SEGMENTS).astype(jnp.bfloat16))
    assert layer.past(x, SEGMENTS).dtype == jnp.bfloat16


def test_the_places_of_examples():
    assert np.asarray(starts(SEGMENTS)).nonzero()[1].tolist() == [0, 5, 7, 2, 0]
    assert np.asarray(epochs(SEGMENTS))[0].tolist() == [1, 1, 1, 1, 1, 2, 2, 3, 3, 3]
    assert np.asarray(epochs(SEGMENTS))[1].tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 1, 1]
    assert np.asarray(last(SEGMENTS)).tolist() == [7, 9, 9, -1]
