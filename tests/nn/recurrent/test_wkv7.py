"""RWKV-7's WKV operator: equal to the recurrence of the paper in float64 for any chunk size, and its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t.nn.recurrent.wkv7 import Terms, wkv7, wkv7_step
from tests.models.tiny import quick_jit

RANDOM = np.random.default_rng(0)
ROWS, LENGTH, HEADS, KEYS, VALUES = 3, 13, 2, 4, 3
SEGMENTS = np.array([[1] * 4 + [2] * 6 + [0] * 3, [0] * 2 + [1] * 11, [1] * 13])
REAL = SEGMENTS > 0


def drawn(decays, rates):
    """Return terms with normalized keys. decays, rates: arguments of the sigmoids of all decays and rates."""
    receptance, key, removal, decay, rate = RANDOM.normal(size=(5, ROWS, LENGTH, HEADS, KEYS))
    removal /= np.linalg.norm(removal, axis=-1, keepdims=True)
    log_decay = -np.exp(-0.5) / (1 + np.exp(-(decays + decay)))
    replacement = removal / (1 + np.exp(-(rates + rate)))
    value = RANDOM.normal(size=(ROWS, LENGTH, HEADS, VALUES))
    return Terms(*(x.astype(np.float32) for x in (receptance, log_decay, key, value, -removal, replacement)))


TERMS = {"mixed": drawn(0.0, 0.0), "fast decay, full replacement": drawn(20.0, 20.0), "no decay": drawn(-20.0, 20.0)}


def recurrent(terms, segments):
    """Return the outputs of the recurrence (Peng et al. 2025, equations 16 to 18), in float64, and the last memories."""
    receptance, log_decay, key, value, removal, replacement = (np.asarray(x, np.float64) for x in terms)
    out, last = np.zeros((ROWS, LENGTH, HEADS, VALUES)), np.zeros((ROWS, HEADS, VALUES, KEYS))
    for row, head in np.ndindex(ROWS, HEADS):
        memory = np.zeros((VALUES, KEYS))
        for at in np.flatnonzero(segments[row]):
            if at and segments[row, at - 1] != segments[row, at]:
                memory = np.zeros((VALUES, KEYS))
            place = row, at, head
            change = np.diag(np.exp(log_decay[place])) + np.outer(removal[place], replacement[place])
            memory = memory @ change + np.outer(value[place], key[place])
            out[place] = memory @ receptance[place]
        last[row, head] = memory
    return out, last


@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
@pytest.mark.parametrize("chunk", [1, 4, 64])
def test_outputs_and_memories_are_those_of_the_recurrence(chunk, terms):
    found, last = quick_jit(wkv7, static_argnums=2)(terms, SEGMENTS, chunk)
    wanted, memories = recurrent(terms, SEGMENTS)
    np.testing.assert_allclose(found[REAL], wanted[REAL], atol=2e-5)
    np.testing.assert_allclose(last, memories, atol=2e-5)
    assert np.isfinite(found).all()


def test_the_longest_chunk_is_stable_with_the_fastest_decay():
    terms = Terms(*(jnp.tile(x, (1, 5, 1, 1)) for x in TERMS["fast decay, full replacement"]))
    segments = np.ones((ROWS, 5 * LENGTH), np.int32)
    run = quick_jit(wkv7, static_argnums=2)
    np.testing.assert_allclose(run(terms, segments, 64)[0], run(terms, segments, 1)[0], atol=2e-5)


def test_steps_are_those_of_whole_rows():
    terms, memory = Terms(*(jnp.asarray(x[2:]) for x in TERMS["mixed"])), jnp.zeros((1, HEADS, VALUES, KEYS))
    wanted, memories = recurrent(TERMS["mixed"], SEGMENTS)
    step = quick_jit(wkv7_step)
    for at in range(LENGTH):
        out, memory = step(memory, Terms(*(x[:, at : at + 1] for x in terms)))
        np.testing.assert_allclose(out[0, 0], wanted[2, at], atol=1e-5)
    np.testing.assert_allclose(memory[0], memories[2], atol=1e-5)


def test_gradients_of_chunks_are_those_of_the_recurrence():
    weights = RANDOM.normal(size=(ROWS, LENGTH, HEADS, VALUES)).astype(np.float32) * REAL[..., None, None]

    def loss(terms, chunk):
        out, memory = wkv7(terms, SEGMENTS, chunk)
        return (out * weights).sum() + (memory**2).sum()

    run = quick_jit(jax.grad(loss), static_argnums=1)
    one, other = (run(TERMS["mixed"], chunk) for chunk in (1, 5))
    for name, a, b in zip(Terms._fields, one, other, strict=True):
        np.testing.assert_allclose(a, b, atol=5e-5, err_msg=name)
        assert np.abs(a).max() > 0.01, name
        assert not np.asarray(a)[~REAL].any(), name

    def at(place, shift):
        moved = [np.asarray(x, np.float64).copy() for x in TERMS["mixed"]]
        moved[1][place] += shift
        out, memory = recurrent(moved, SEGMENTS)
        return (out * weights).sum() + (memory**2).sum()

    for place in [(0, 1, 0, 1), (2, 5, 1, 3)]:
        slope = (at(place, 1e-5) - at(place, -1e-5)) / 2e-5
        np.testing.assert_allclose(one.log_decay[place], slope, rtol=1e-3, atol=1e-4)
