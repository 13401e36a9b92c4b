"""Attention against a loop over queries in NumPy, and the backends against each other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t.nn.attention import attend_step, attention
from t2t.nn.initializers import Normal
from t2t.nn.masks import Mask
from t2t.nn.parameters import Definition
from t2t.nn.relative import RelativeBias

B, LQ, LK, H, D = 2, 11, 11, 4, 8


def inputs(kv_heads=H, lq=LQ, lk=LK):
    keys = jax.random.split(jax.random.key(0), 3)
    q = jax.random.normal(keys[0], (B, lq, H, D))
    k = jax.random.normal(keys[1], (B, lk, kv_heads, D))
    v = jax.random.normal(keys[2], (B, lk, kv_heads, D))
    return q, k, v


SEGMENTS = jnp.array([[1, 1, 1, 1, 2, 2, 2, 2, 2, 0, 0], [1, 1, 1, 1, 1, 1, 1, 2, 3, 3, 3]])
PREFIX = jnp.array([[1, 1, 1, 0, 1, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0]])
INDEX = jnp.arange(LQ)[None]
MASKS = {
    "all": Mask(queries=jnp.ones((B, LQ), int), keys=jnp.ones((B, LK), int)),
    "segments": Mask(queries=SEGMENTS, keys=SEGMENTS),
    "causal": Mask(queries=SEGMENTS, keys=SEGMENTS, index=INDEX, causal=True),
    "prefix": Mask(queries=SEGMENTS, keys=SEGMENTS, index=INDEX, causal=True, prefix=PREFIX),
}


def by_hand(q, k, v, mask, bias, scale):
    """One query, one head at a time, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros_like(q)
    share = H // k.shape[2]
    for b in range(B):
        for h in range(H):
            for i in range(q.shape[1]):
                segment = int(mask.queries[b, i])
                seen = [
                    j
                    for j in range(k.shape[1])
                    if segment
                    and int(mask.keys[b, j]) == segment
                    and (not mask.causal or j <= i or (mask.prefix is not None and int(mask.prefix[b, j])))
                ]
                if not seen:
                    continue
                logits = np.array([scale * q[b, i, h] @ k[b, j, h // share] + float(bias[0, h, i, j]) for j in seen])
                weights = np.exp(logits - logits.max())
                weights /= weights.sum()
                out[b, i, h] = sum(w * v[b, j, h // share] for w, j in zip(weights, seen, strict=True))
    return out


@pytest.mark.parametrize(("name", "kv_heads"), [*((name, H) for name in MASKS), ("prefix", 2), ("prefix", 1)])
def test_equals_a_loop_over_queries(name, kv_heads):
    q, k, v = inputs(kv_heads)
    bias = jax.random.normal(jax.random.key(5), (1, H, LQ, LK))
    expected = by_hand(q, k, v, MASKS[name], bias, 0.3)
    for backend in ("einsum", "chunked"):
        ours = attention(q, k, v, mask=MASKS[name], bias=bias, scale=0.3, backend=backend, block=4)
        np.testing.assert_allclose(ours, expected, atol=2e-6)


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_sinks_are_one_more_key_of_every_backend_and_of_a_step(softcap):
    q, k, v = inputs(2)
    sinks = jnp.array([-2.0, 0.0, 1.0, 8.0])
    mask = MASKS["causal"]

    def out(sinks, backend):
        return attention(q, k, v, mask=mask, scale=0.3, softcap=softcap, sinks=sinks, backend=backend, block=4)

    without = out(None, "einsum")
    logits = 0.3 * jnp.einsum("bqhd,bkhd->bhqk", q, jnp.repeat(k, 2, axis=2))
    logits = logits if softcap is None else softcap * jnp.tanh(logits / softcap)
    total = jnp.sum(jnp.where(mask.dense(), jnp.exp(logits), 0.0), axis=-1)
    share = jnp.swapaxes(total / (total + jnp.exp(sinks)[:, None]), 1, 2)[..., None]
    for backend in ("einsum", "chunked"):
        np.testing.assert_allclose(out(sinks, backend), without * share, atol=2e-6)
    last = Mask(queries=SEGMENTS[:, -1:], keys=SEGMENTS, index=jnp.full((B, 1), LQ - 1), causal=True)
    caches = [jnp.swapaxes(x, 1, 2) for x in (k, v)]
    stepped = attend_step(q[:, -1:], *caches, mask=last, scale=0.3, softcap=softcap, sinks=sinks)
    np.testing.assert_allclose(stepped, (without * share)[:, -1:], atol=2e-6)
    gradients = [jax.grad(lambda sinks, b=b: jnp.sum(out(sinks, b) ** 2))(sinks) for b in ("einsum", "chunked")]
    np.testing.assert_allclose(*gradients, rtol=1e-5)


@pytest.fixture(scope="module")
def relative():
    definition = Definition(RelativeBias(H, buckets=8, max_distance=12, bidirectional=True, init=Normal(1.0)))
    return definition, definition.init(jax.random.key(1))


@pytest.mark.parametrize("block", [1, 4, 11, 64])
def test_chunked_equals_einsum_with_gradients(relative, block):
    definition, params = relative
    target = jax.random.normal(jax.random.key(9), (B, LQ, H, D))

    def loss(arguments, backend):
        params, q, k, v = arguments
        module = definition.bind(params)
        bias = lambda start, queries: module.block(start, queries.shape[1], LK)  # noqa: E731
        out = attention(q, k, v, mask=MASKS["prefix"], bias=bias, scale=0.5, backend=backend, block=block)
        return jnp.sum(out * target)

    arguments = (params, *inputs())
    one, ones = jax.jit(jax.value_and_grad(functools.partial(loss, backend="einsum")))(arguments)
    two, twos = jax.jit(jax.value_and_grad(functools.partial(loss, backend="chunked")))(arguments)
    np.testing.assert_allclose(one, two, rtol=1e-5)
    assert float(jnp.abs(ones[0]["table"]).max()) > 0.1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ones, twos)


def test_chunked_takes_an_array_bias_and_its_gradient():
    q, k, v = inputs()
    bias = jax.random.normal(jax.random.key(5), (B, H, LQ, LK))

    def loss(bias, backend):
        return jnp.sum(attention(q, k, v, mask=MASKS["causal"], bias=bias, backend=backend, block=3) ** 2)

    ones, twos = (jax.grad(loss)(bias, backend) for backend in ("einsum", "chunked"))
    np.testing.assert_allclose(ones, twos, atol=1e-5)


@pytest.mark.parametrize("backend", ["einsum", "chunked"])
def test_a_query_that_sees_nothing_gives_zero_and_finite_gradients(backend):
    q, k, v = inputs()
    mask = Mask(queries=jnp.full((B, LQ), 3), keys=SEGMENTS)  # the first row has no segment 3

    def loss(arguments):
        out = attention(*arguments, mask=mask, backend=backend, block=4)
        return jnp.sum(out**2), out

    (_, out), gradients = jax.value_and_grad(loss, has_aux=True)((q, k, v))
    assert float(jnp.abs(out[0]).max()) == 0.0
    assert float(jnp.abs(out[1]).max()) > 0.0
    for gradient in gradients:
        assert bool(jnp.isfinite(gradient).all())
        assert float(jnp.abs(gradient[0]).max()) == 0.0


@pytest.mark.parametrize("backend", ["einsum", "chunked"])
def test_dropout_needs_a_key_and_is_what_the_key_says(backend):
    q, k, v = inputs()
    call = functools.partial(attention, q, k, v, mask=MASKS["all"], dropout=0.5, backend=backend, block=4)
    key = jax.random.key(3)
    np.testing.assert_array_equal(call(), call(dropout_key=None))
    np.testing.assert_array_equal(call(dropout_key=key), call(dropout_key=key))
    assert not np.array_equal(call(dropout_key=key), call())
    assert not np.array_equal(call(dropout_key=key), call(dropout_key=jax.random.key(4)))
    mean = jnp.mean(jax.vmap(lambda key: call(dropout_key=key))(jax.random.split(key, 2000)), axis=0)
    np.testing.assert_allclose(mean, call(), atol=0.15)


def test_bfloat16_softmax_is_float32():
    q, k, v = inputs()
    low = [x.astype(jnp.bfloat16) for x in (q, k, v)]
    exact = attention(*(x.astype(jnp.float32) for x in low), mask=MASKS["causal"])
    ours = attention(*low, mask=MASKS["causal"])
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(ours.astype(jnp.float32), exact, atol=0.03)
