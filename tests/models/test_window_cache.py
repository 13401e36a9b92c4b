"""Layers with a window decode with a cache of as many tokens as the window has, and give the tokens that the whole cache gives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t.decode import Beam, Greedy, Sampling, generate
from t2t.models.config import LayerOptions
from t2t.nn.attention.state import held, slots
from t2t.sharding import assume_platform
from tests.models.tiny import VOCAB, batch, config, params_of, quick_jit, row, rows

WINDOW = 4
ALTERNATING = (LayerOptions(window=WINDOW), LayerOptions())
RANDOM = np.random.default_rng(3)
TEXTS = [RANDOM.integers(1, VOCAB, n) for n in (11, 1, 6)]
"""The first prompt is longer than the window."""


def settings(**overrides):
    return config("llama", num_layers=3, pattern=ALTERNATING, **overrides)


def prompts():
    return batch("decoder", None, rows([row([text], 12) for text in TEXTS]))


def sizes(cache):
    """Return the shape of each layer's keys."""
    return [state.key.shape for state in cache["layers"]["cache"]]


def test_the_slots_of_a_ring():
    assert held(jnp.array([6, 2, -1]), 4).tolist() == [[4, 5, 6, 3], [0, 1, 2, -1], [-4, -3, -2, -1]]
    assert (slots(4, 100), slots(4, 3)) == (4, 3)


def test_the_state_of_a_layer_with_a_window_does_not_grow_with_the_length():
    model, params = params_of(settings())
    rows_of, heads, width = 3, 2, 8
    windowed, whole = (rows_of, heads, WINDOW, width), (rows_of, heads, 300, width)
    _, cache = jax.eval_shape(functools.partial(model.start, length=300), params, prompts())
    assert sizes(cache) == [windowed, whole, windowed]
    longer = jax.eval_shape(lambda cache: model.grow(cache, 5000), cache)
    assert sizes(longer) == [windowed, (rows_of, heads, 5000, width), windowed]
    # Hypotheses share the last tokens of their prompt, and each has as many slots of its own.
    forked = jax.eval_shape(lambda cache: model.fork(cache, 2), cache)
    assert sizes(forked) == [(6, *windowed[1:]), (6, heads, 300 - 12, width), (6, *windowed[1:])]
    assert [memory["prompt"]["key"].shape[2] for memory in forked["layers"]["memory"]] == [WINDOW, 12, WINDOW]


def test_short_caches_grow_up_to_the_window():
    model, params = params_of(settings())
    short = batch("decoder", None, rows([row([text[:2]], 2) for text in TEXTS]))
    _, cache = jax.eval_shape(functools.partial(model.start, length=3), params, short)
    found = [sizes(cache)[0][2]]
    for length in (4, 9):
        cache = jax.eval_shape(functools.partial(model.grow, length=length), cache)
        found.append(sizes(cache)[0][2])
    assert found == [3, 4, 4]


WAYS = {
    "greedy": Greedy(),
    "sampling": Sampling(samples=2, temperature=0.7),
    "beams": Beam(size=3, return_n=2),
}


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("way", WAYS)
def test_tokens_are_those_of_the_whole_cache(way, platform, monkeypatch):
    _, params = params_of(settings(attention_sinks=True))

    def made():
        model = settings(attention_sinks=True).build()  # nothing compiled is kept from before
        key = jax.random.key(5)
        return generate(model, params, prompts(), WAYS[way], length=14, eos_id=VOCAB, key=key)

    with assume_platform(platform):
        found = made()
        for module in ("inputs", "layer"):
            monkeypatch.setattr(f"t2t.nn.attention.{module}.bounded", lambda context, window: None)
        wanted = made()
    np.testing.assert_array_equal(found.ids, wanted.ids)
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-5)
    assert len({tuple(ids) for ids in np.asarray(found.ids).reshape(-1, 14)}) > 2


def test_rows_go_on_after_they_are_selected():
    model, params = params_of(settings())
    _, cache = quick_jit(functools.partial(model.start, length=20))(params, prompts())
    step = quick_jit(model.step)
    picked = model.select(cache, np.array([2, 0, 2, 1]))
    for token in (5, 6, 7, 8, 9):  # more steps than the window has tokens
        ours, picked = step(params, picked, np.full(4, token))
        theirs, cache = step(params, cache, np.full(3, token))
        np.testing.assert_allclose(ours, theirs[np.array([2, 0, 2, 1])], atol=1e-6)
