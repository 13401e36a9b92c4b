"""Linear attention and the delta rule: chunks of any length give what the recurrence gives, in packed rows too, with the same gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t.nn.recurrent import delta_rule, linear_attention
from t2t.nn.recurrent.delta_rule import DeltaTerms
from t2t.nn.recurrent.linear_attention import Terms
from t2t.plan import flops
from tests.models.tiny import quick_jit

LENGTH, HEADS, KEY, VALUE = 37, 2, 5, 3
SEGMENTS = np.array([[1] * 9 + [2] * 17 + [3] * 8 + [0] * 3, [0] * 2 + [1] * 35])
"""A packed row with padding at the end, and a row with padding at the start."""
KINDS = ("heads", "coordinates", "delta")


def terms_of(kind, seed=0, weakest=3.0):
    """Return random terms. weakest: largest decay of one token, as a negative logarithm."""
    random = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(random.normal(size=(2, LENGTH, HEADS, *shape)), jnp.float32)

    query, key, value = normal(KEY), normal(KEY), normal(VALUE)
    decays = (KEY,) if kind == "coordinates" else ()
    # Some tokens keep nearly everything, others nearly nothing.
    log_decay = -weakest * jnp.asarray(random.uniform(size=(2, LENGTH, HEADS, *decays)) ** 3, jnp.float32)
    if kind != "delta":
        return Terms(query, key, value, log_decay)
    key = key / jnp.linalg.norm(key, axis=-1, keepdims=True)
    return DeltaTerms(query, key, value, log_decay, jax.nn.sigmoid(normal()))


def module_of(terms):
    return delta_rule if isinstance(terms, DeltaTerms) else linear_attention


def recurrence(terms, segments):
    """Return the outputs and the last memories, in float64, one token after the other."""
    query, key, value, log_decay, *rate = (np.asarray(x, np.float64) for x in terms)
    out, memories = np.zeros(value.shape), []
    for row in range(len(segments)):
        memory, before = np.zeros((HEADS, KEY, VALUE)), 0
        for at, segment in enumerate(segments[row]):
            if not segment:
                continue
            if segment != before:
                memory, before = np.zeros_like(memory), segment
            for head in range(HEADS):
                decay = np.exp(log_decay[row, at, head]) * np.ones(KEY)
                decayed, change = decay[:, None] * memory[head], value[row, at, head]
                if rate:
                    change = rate[0][row, at, head] * (change - key[row, at, head] @ decayed)
                memory[head] = decayed + np.outer(key[row, at, head], change)
                out[row, at, head] = query[row, at, head] @ memory[head]
        memories.append(memory)
    return out, np.stack(memories)


@functools.cache
def expected(kind, weakest=3.0):
    return recurrence(terms_of(kind, weakest=weakest), SEGMENTS)


@pytest.mark.parametrize("size", [1, 4, 16, 24, 64, None])
@pytest.mark.parametrize("kind", KINDS)
def test_chunks_of_any_length_are_the_recurrence(kind, size):
    if kind == "delta" and size is None:
        size = LENGTH
    terms = terms_of(kind)
    out, memory = quick_jit(lambda terms: module_of(terms).over_rows(terms, SEGMENTS, size))(terms)
    wanted, last = expected(kind)
    np.testing.assert_allclose(np.asarray(out)[SEGMENTS > 0], wanted[SEGMENTS > 0], atol=2e-5)
    np.testing.assert_allclose(memory, last, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_go_on_from_the_memory_of_whole_rows(kind):
    terms = terms_of(kind)
    first, kept = 11, np.where(np.arange(LENGTH) < 20, SEGMENTS * 0 + 1, 0)
    wanted, _ = recurrence(terms, kept)

    def both(terms):
        of = module_of(terms)
        _, memory = of.over_rows(type(terms)(*(x[:, :first] for x in terms)), kept[:, :first], 4)
        steps = type(terms)(*(jnp.moveaxis(x[:, first:20, None], 1, 0) for x in terms))
        return jax.lax.scan(lambda memory, one: of.after(memory, one)[::-1], memory, steps)[1]

    found = np.moveaxis(np.asarray(quick_jit(both)(terms))[:, :, 0], 0, 1)
    np.testing.assert_allclose(found, wanted[:, first:20], atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_do_not_depend_on_the_length_of_chunks(kind):
    terms, weights = terms_of(kind), np.random.default_rng(1).normal(size=(2, LENGTH, HEADS, VALUE))

    def value(terms, size):
        out, memory = module_of(terms).over_rows(terms, SEGMENTS, size)
        return jnp.sum(out * np.where(SEGMENTS > 0, 1, 0)[..., None, None] * weights) + jnp.sum(memory**2)

    one, other = quick_jit(lambda terms: [jax.grad(value)(terms, size) for size in (1, 16)])(terms)
    for name, a, b in zip(terms._fields, one, other, strict=True):
        assert np.isfinite(a).all()
        assert np.abs(a).max() > 0.1
        np.testing.assert_allclose(a, b, atol=2e-4, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_that_forgets_everything_gives_finite_numbers(kind):
    """Products of decays of 1e-17 and less underflow, and no quotient of two of them is computed."""
    terms = terms_of(kind, weakest=40.0)

    def both(terms):
        value = lambda terms: jnp.sum(module_of(terms).over_rows(terms, SEGMENTS, 64)[0] ** 2)  # noqa: E731
        return module_of(terms).over_rows(terms, SEGMENTS, 64)[0], jax.grad(value)(terms)

    out, gradients = quick_jit(both)(terms)
    wanted, _ = expected(kind, weakest=40.0)
    # The sum of the logarithms in a chunk is some hundreds, so its rounding error is 2e-5.
    np.testing.assert_allclose(np.asarray(out)[SEGMENTS > 0], wanted[SEGMENTS > 0], atol=2e-5, rtol=2e-4)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_equal_keys_do_not_make_the_triangular_system_inaccurate():
    terms = terms_of("delta")
    terms = terms._replace(
        key=jnp.broadcast_to(terms.key[:, :1], terms.key.shape), rate=jnp.full_like(terms.rate, 0.99)
    )
    out, _ = quick_jit(lambda terms: delta_rule.over_rows(terms, SEGMENTS, 64))(terms)
    np.testing.assert_allclose(np.asarray(out)[SEGMENTS > 0], recurrence(terms, SEGMENTS)[0][SEGMENTS > 0], atol=2e-5)


def test_products_are_those_that_the_documentation_counts():
    def counted(kind, size):
        terms = terms_of(kind)
        return flops.dots(lambda terms: module_of(terms).over_rows(terms, SEGMENTS, size), terms).total()

    tokens = 2 * 40 * HEADS  # in chunks of 8
    linear = 8 * (KEY + VALUE) + 2 * KEY * VALUE
    assert counted("heads", 8) == 2 * tokens * linear
    # The delta rule also multiplies keys with keys and with the memory, and solves a triangular system.
    assert counted("delta", 8) == 2 * tokens * (linear + 8 * KEY + KEY * VALUE + (8 * 8 - 1) / 3 + 8 * VALUE)
    # With a decay for each coordinate, pairs of the same block of 16 tokens take no matrix product, but those of other blocks are computed for all.
    assert counted("coordinates", 8) == 2 * tokens * linear
