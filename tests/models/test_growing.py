"""A cache that grows while it is filled gives what one with room for all gives, for every model and way of decoding."""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding

from t2t.decode import Beam, Greedy, Sampling, generate, generation
from t2t.sharding import DEFAULT_RULES, MeshConfig, assume_platform
from tests.models.tiny import VOCAB, batch, config, params_of, row, rows

LENGTH, ROOM = 15, 22
"""Tokens to generate after prompts in rows of 8."""
WAYS = {"greedy": Greedy(), "sampling": Sampling(samples=2), "beams": Beam(size=3, return_n=2)}


@pytest.fixture
def growing(monkeypatch):
    """Caches of 10 positions, then of 14, then of all; returns the sizes that were further compiled or run for."""
    ran = []
    monkeypatch.setattr(generation, "rooms", lambda prompt, room: (10, 14, room))
    further = generation._further

    def counted(how, room, *rest):
        ran.append(room)
        return further(how, room, *rest)

    monkeypatch.setattr(generation, "_further", counted)
    return ran


def prompts(name):
    random = np.random.default_rng(3)
    encoder = rows([row([random.integers(1, VOCAB, n)], 9) for n in (9, 3, 6)])
    prefixes = [max(n - 1, 0) * (name == "prefix") for n in (8, 1, 5)]
    texts = [row([random.integers(1, VOCAB, n)], 8, [p]) for n, p in zip((8, 1, 5), prefixes, strict=True)]
    return batch(params_of(config(name))[0].config.kind, encoder, rows(texts))


def generated(model, params, given, way, eos_id=VOCAB):
    key = jax.random.key(7) if way == "sampling" else None
    return generate(model, params, given, WAYS[way], length=LENGTH, eos_id=eos_id, key=key)


@pytest.mark.parametrize(
    ("name", "overrides", "way"),
    [
        ("prefix", {}, "greedy"),
        pytest.param("t5", {}, "sampling", marks=pytest.mark.slow),
        pytest.param("t5", {"relative_per_layer": True}, "beams", marks=pytest.mark.slow),
        ("llama", {"num_heads": 4, "num_kv_heads": 2, "window": 6}, "greedy"),
        ("llama", {"num_heads": 4, "num_kv_heads": 2, "window": 6}, "beams"),
    ],
)
def test_a_growing_cache_gives_the_same(name, overrides, way, growing):
    model, params = params_of(config(name, **overrides))
    given = prompts(name)
    grown = generated(model, params, given, way)
    assert growing == [14, ROOM]
    whole = generation._whole(
        generation._How(model, WAYS[way], LENGTH, (VOCAB,), None, 0),
        params,
        given,
        jax.random.key(7) if way == "sampling" else None,
    )
    np.testing.assert_array_equal(grown.ids, whole.ids)
    np.testing.assert_allclose(grown.scores, whole.scores, rtol=1e-5)
    assert np.asarray(grown.ids).any(axis=(1, 2)).all()


@pytest.mark.slow
def test_stacked_caches_grow_too(growing):
    way = "beams"
    config_ = config("gpt", num_layers=3)
    model, params = params_of(config_)
    given = prompts("gpt")
    apart = generated(model, params, given, way)
    with assume_platform("gpu"):
        stacked = generated(config_.build(), params, given, way)
    assert growing == [14, ROOM] * 2
    np.testing.assert_array_equal(apart.ids, stacked.ids)


@pytest.mark.slow
def test_caches_grow_on_a_mesh(growing):
    way = "beams"
    model, params = params_of(config("t5"))
    mesh = MeshConfig(data=3, tensor=2).build(jax.devices()[:6])

    def lay(leaf, spec):
        return jax.device_put(leaf, NamedSharding(mesh, DEFAULT_RULES.spec(spec.axes, spec.shape, mesh)))

    divided = jax.tree.map(lay, params, model.specs)
    given = prompts("t5")
    np.testing.assert_array_equal(generated(model, params, given, way).ids, generated(model, divided, given, way).ids)
    assert growing == [14, ROOM] * 2


def test_nothing_is_compiled_for_positions_that_no_row_reaches(growing):
    model, params = params_of(config("gpt"))
    given = jax.tree.map(lambda x: x[:1], prompts("gpt"))
    made = np.asarray(generated(model, params, given, "greedy").ids)[0, 0]
    assert growing == [14, ROOM]
    ended = np.asarray(generated(model, params, given, "greedy", eos_id=int(made[1])).ids)[0, 0]
    assert growing == [14, ROOM]
    end = list(made).index(made[1]) + 1
    assert list(ended[:end]) == list(made[:end])
    assert not ended[end:].any()


def test_a_trace_knows_no_rows_and_takes_one_cache(growing):
    model, params = params_of(config("gpt"))
    given = prompts("gpt")
    traced = jax.jit(functools.partial(generated, model, way="greedy"))(params, given)
    assert growing == []
    np.testing.assert_array_equal(traced.ids, generated(model, params, given, "greedy").ids)


@pytest.mark.parametrize(
    ("prompt", "room", "sizes"),
    [
        (1, 64, (64,)),
        (64, 256, (256,)),
        (1, 300, (128, 300)),
        (64, 512, (128, 256, 512)),
        (1, 1024, (128, 512, 1024)),
        (64, 1087, (256, 640, 1087)),
        (300, 1024, (512, 1024)),
        (500, 1024, (1024,)),
        (1, 2048, (256, 1024, 2048)),
        (4050, 8192, (8192,)),
    ],
)
def test_sizes_of_growing_caches(prompt, room, sizes):
    assert generation.rooms(prompt, room) == sizes
