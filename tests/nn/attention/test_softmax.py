"""Attention's own gradient against JAX's of the plain formula."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t.nn.attention.softmax import softmax_attention

B, Q, K, H, D, RATE = 2, 5, 7, 4, 8, 0.25


def plain(q, k, v, bias, hidden, kept):
    """The formula, in float32 all along."""
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) + (0.0 if bias is None else bias)
    weights = jax.nn.softmax(jnp.where(hidden < 0, -1e30, logits), axis=-1)
    if kept is not None:
        weights = jnp.where(kept, weights / (1.0 - RATE), 0.0)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v)


def arguments(bias):
    keys = jax.random.split(jax.random.key(0), 7)
    q, k, v, target = (
        jax.random.normal(key, (B, length, H, D)) for key, length in zip(keys, (Q, K, K, Q), strict=False)
    )
    seen = jax.random.bernoulli(keys[4], 0.7, (B, 1, Q, K)).at[..., 0].set(True)
    kept = jax.random.bernoulli(keys[5], 1.0 - RATE, (B, H, Q, K))
    bias = None if bias is None else jax.random.normal(keys[6], (*bias, Q, K))
    return (q, k, v, bias), target, jnp.where(seen, 0.0, -1e30), kept


def close(ours, theirs, share):
    """Equal up to a share of the largest."""
    assert ours.shape == theirs.shape
    ours, theirs = (np.asarray(x, np.float32) for x in (ours, theirs))
    np.testing.assert_allclose(ours, theirs, atol=share * np.abs(theirs).max())


@functools.partial(jax.jit, static_argnums=0)
def both(rate, given, target, hidden, kept):
    ours, back = jax.vjp(lambda *x: softmax_attention(rate, *x, hidden, kept), *given)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), given)
    theirs, plain_back = jax.vjp(lambda *x: plain(*x, hidden, kept), *wide)
    return (ours, *back(target)), (theirs, *plain_back(target.astype(jnp.float32)))


@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("bias", [None, (1, H), (B, 1), (B, H), (1, 1)])
def test_output_and_gradients_are_those_of_the_plain_formula(bias, dropped):
    given, target, hidden, kept = arguments(bias)
    ours, theirs = both(RATE if dropped else 0.0, given, target, hidden, kept if dropped else None)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        close(one, other, 2e-6)


@pytest.mark.parametrize("dropped", [False, True])
def test_a_sink_is_one_more_key_whose_value_is_zero(dropped):
    (q, k, v, bias), target, hidden, kept = arguments((1, H))
    rate, kept = (RATE, kept) if dropped else (0.0, None)
    sinks = jnp.array([-1.0, 0.0, 2.0, 30.0])
    hidden = hidden.at[0, 0, 0].set(-1e30)  # the first query sees the sink alone

    def joined(q, k, v, bias, sinks):
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) + bias
        logits = jnp.where(hidden < 0, -1e30, logits)
        more = jnp.broadcast_to(sinks[:, None, None], (B, H, Q, 1))
        weights = jax.nn.softmax(jnp.concatenate([logits, more], axis=-1), axis=-1)[..., :-1]
        weights = weights if kept is None else jnp.where(kept, weights / (1.0 - RATE), 0.0)
        return jnp.einsum("bhqk,bkhd->bqhd", weights, v)

    def own(q, k, v, bias, sinks):
        return softmax_attention(rate, q, k, v, bias, hidden, kept, sinks)

    found, wanted = (
        jax.value_and_grad(lambda *x, f=f: jnp.sum(f(*x) * target), argnums=range(5))(q, k, v, bias, sinks)
        for f in (own, joined)
    )
    assert float(jnp.abs(own(q, k, v, bias, sinks)[0, 0]).max()) == 0.0
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        close(one, other, 2e-6)
    assert float(jnp.abs(found[1][4][:3]).min()) > 1e-2  # the largest sink takes nearly all of the weight


def test_in_bfloat16_only_operands_and_results_are_rounded():
    given, target, hidden, kept = arguments((1, H))
    *rows, bias = given
    low = (*(x.astype(jnp.bfloat16) for x in rows), bias)
    ours, theirs = both(RATE, low, target.astype(jnp.bfloat16), hidden, kept)
    assert [x.dtype for x in ours] == [jnp.bfloat16] * 4 + [jnp.float32]
    for one, other in zip(ours, theirs, strict=True):
        close(one, other, 0.015)  # some four units in the last of 8 bits


def test_logits_of_any_size_give_finite_outputs_and_gradients():
    (q, k, v, bias), target, hidden, _ = arguments((1, H))
    ours, theirs = both(0.0, (1e3 * q, k, v, bias), target, hidden, None)
    close(ours[0], theirs[0], 1e-5)
    for gradient in ours[1:]:
        assert bool(jnp.isfinite(gradient).all())
