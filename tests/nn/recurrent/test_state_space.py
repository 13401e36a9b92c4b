"""The recurrences of Mamba and Mamba-2: chunks of any size equal steps, examples of a row do not mix, and gradients are those of the steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t.errors import UserError
from t2t.nn.recurrent.mamba2 import Mamba2Config
from t2t.nn.recurrent.selective_scan import selective_scan, selective_step
from t2t.nn.recurrent.ssd import ssd, ssd_step
from t2t.nn.recurrent.time_steps import LogCount, LogUniform, TimeSteps
from tests.models.tiny import quick_jit

ROWS, LENGTH, HEADS, WIDTH, GROUPS, SIZE = 3, 11, 4, 3, 2, 5
SEGMENTS = np.array([[1] * 4 + [2] * 5 + [0] * 2, [1] * 11, [0] * 3 + [1] * 6 + [2] * 2])
RANDOM = np.random.default_rng(0)


def drawn(*shape):
    return jnp.asarray(RANDOM.normal(size=shape), jnp.float32)


def steps_of(*shape):
    return jax.nn.softplus(drawn(*shape))


HEADED = (
    drawn(ROWS, LENGTH, HEADS, WIDTH),
    steps_of(ROWS, LENGTH, HEADS),
    -jnp.exp(drawn(HEADS)),
    drawn(ROWS, LENGTH, GROUPS, SIZE),
    drawn(ROWS, LENGTH, GROUPS, SIZE),
)
DIAGONAL = (
    drawn(ROWS, LENGTH, WIDTH),
    steps_of(ROWS, LENGTH, WIDTH),
    -jnp.exp(drawn(SIZE, WIDTH)),
    drawn(ROWS, LENGTH, SIZE),
    drawn(ROWS, LENGTH, SIZE),
)
FORMS = {
    "Mamba-2": (ssd, ssd_step, HEADED, (ROWS, HEADS, WIDTH, SIZE)),
    "Mamba": (selective_scan, selective_step, DIAGONAL, (ROWS, SIZE, WIDTH)),
}


def stepped(step, shape, x, dt, a, b, c):
    """Return the outputs of tokens and the last state, one step after the other, with a new state at the start of an example."""
    state, outputs = jnp.zeros(shape), []
    before = np.pad(SEGMENTS[:, :-1], ((0, 0), (1, 0)))
    for t in range(LENGTH):
        begins = (SEGMENTS[:, t] > 0) & (SEGMENTS[:, t] != before[:, t])
        wide = (slice(None), *[None] * (len(shape) - 1))
        y, new = step(x[:, t], dt[:, t], a, b[:, t], c[:, t], jnp.where(begins[wide], 0, state))
        state = jnp.where((SEGMENTS[:, t] > 0)[wide], new, state)
        outputs.append(y)
    return jnp.stack(outputs, axis=1), state


def summed(run, *given):
    """Return a sum that depends on every output of a token, and on the last state."""
    y, state = run(*given)
    weights = jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
    real = (SEGMENTS > 0).reshape(*SEGMENTS.shape, *[1] * (y.ndim - 2))
    return jnp.sum(jnp.where(real, y * weights, 0)) + jnp.sum(state**2)


@functools.cache
def reference(name):
    """Return outputs, last state and gradients of the steps."""
    _, step, given, shape = FORMS[name]
    run = functools.partial(stepped, step, shape)
    gradient = jax.grad(functools.partial(summed, run), argnums=(0, 1, 2, 3, 4))
    return quick_jit(lambda *given: (run(*given), gradient(*given)))(*given)


@pytest.mark.parametrize("chunk", [1, 4, 64])
@pytest.mark.parametrize("name", FORMS)
def test_chunks_of_any_size_equal_steps(name, chunk):
    chunked, _, given, _ = FORMS[name]
    run = functools.partial(chunked, example=SEGMENTS, chunk=chunk)
    gradient = jax.grad(functools.partial(summed, run), argnums=(0, 1, 2, 3, 4))
    (y, state), gradients = quick_jit(lambda *given: (run(*given), gradient(*given)))(*given)
    (wanted, last), wanted_gradients = reference(name)
    np.testing.assert_allclose(y[SEGMENTS > 0], wanted[SEGMENTS > 0], atol=2e-5)
    np.testing.assert_allclose(state, last, atol=2e-5)
    for one, other in zip(gradients, wanted_gradients, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4, rtol=1e-4)
        assert np.abs(one).max() > 0.1


def test_the_steps_are_those_of_the_papers():
    # One row, one channel: h = exp(dt a) h + dt x b.
    state = np.zeros((2, 3))
    for t in range(4):
        x, dt, b, c = (np.asarray(part[0, t]) for part in (DIAGONAL[0], DIAGONAL[1], DIAGONAL[3], DIAGONAL[4]))
        state = np.exp(dt[0] * np.asarray(DIAGONAL[2])[:, 0]) * (state if t else 0) + dt[0] * x[0] * b
    y, _ = selective_scan(*DIAGONAL, np.array([[1] * LENGTH] * ROWS), chunk=4)
    assert float(y[0, 3, 0]) == pytest.approx(float(state @ c), rel=1e-5)


def test_decays_that_reach_zero_have_finite_gradients():
    x, dt, a, b, c = HEADED
    run = functools.partial(ssd, example=SEGMENTS, chunk=8)
    gradients = quick_jit(jax.grad(functools.partial(summed, run), argnums=(0, 1, 2, 3, 4)))(x, 100 * dt, a * 50, b, c)
    assert all(np.isfinite(leaf).all() for leaf in gradients)


@pytest.mark.parametrize("name", FORMS)
def test_states_are_float32_in_half_precision(name):
    chunked, step, given, shape = FORMS[name]
    half = [part.astype(jnp.bfloat16) if place in (0, 3, 4) else part for place, part in enumerate(given)]
    y, state = chunked(*half, SEGMENTS, chunk=4)
    assert (y.dtype, state.dtype) == (jnp.float32, jnp.float32)
    np.testing.assert_allclose(state, reference(name)[0][1], atol=0.1, rtol=0.05)
    half = [part if place == 2 else part[:, 0] for place, part in enumerate(half)]
    y, state = step(*half, jnp.zeros(shape))
    assert (y.dtype, state.dtype) == (jnp.float32, jnp.float32)


def test_initial_steps_and_decays():
    key, shape = jax.random.key(0), (3, 2000)
    steps = jax.nn.softplus(TimeSteps(low=0.001, high=0.1).initializer(key, shape))
    assert 0.00099 < float(steps.min()) < 0.0011 < 0.09 < float(steps.max()) < 0.101
    assert float(jnp.median(steps)) == pytest.approx(0.01, rel=0.05)  # log-uniform
    assert float(jax.nn.softplus(TimeSteps(floor=0.02).initializer(key, shape)).min()) == pytest.approx(0.02, rel=1e-3)
    rates = jnp.exp(LogUniform(1.0, 16.0)(key, shape))
    assert 1.0 <= float(rates.min()) < 1.1 < 15.9 < float(rates.max()) <= 16.0001
    np.testing.assert_allclose(jnp.exp(LogCount()(key, (2, 4))), [[1, 2, 3, 4]] * 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Mamba2Config(num_heads=12, groups=5),
            r"groups is 5, which does not divide .*num_heads = 12. Nearest: (4|6)",
        ),
        (lambda: TimeSteps(low=0.5), r"time_steps.low is 0.5, more than time_steps.high = 0.1. Nearest: 0.1"),
        (lambda: Mamba2Config(num_heads=2, convolution=0), r"convolution 0 .*Nearest: "),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make, message):
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
