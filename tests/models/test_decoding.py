"""Decoding a token at a time equals the full forward pass."""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding

from t2t.decode import Beam, generate_many
from t2t.errors import UserError
from t2t.sharding import DEFAULT_RULES, MeshConfig, assume_platform
from tests.models.tiny import VOCAB, batch, config, logits_of, moved_steps, params_of, quick_jit, row, rows, some_batch

LENGTHS = [6, 1, 4]
STEPS = 5


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("gpt", {}),
        ("gpt", {"num_kv_heads": 1}),
        ("gpt", {"attention": "chunked", "attention_block": 4}),
        ("gpt-1", {}),
        ("prefix", {}),
        ("prefix", {"window": 3}),
        ("t5", {}),
        ("t5-1.0", {"attention": "chunked", "attention_block": 4}),
        ("t5", {"num_decoder_layers": 3}),
        ("t5", {"relative_per_layer": True}),
        ("t5-shared", {}),
        ("gpt", {"num_layers": 4, "groups": 2, "embedding_size": 16, "position_offset": 2}),
        ("llama", {"num_kv_heads": 1, "window": 3}),
        ("llama", {"attention": "chunked", "attention_block": 4, "window": 5}),
        ("llama", {"window": 3, "attention_sinks": True, "num_kv_heads": 1}),
        ("t5", {"window": 3}),
        ("moe", {"biases": True, "expert_limit": 0.5}),
        ("moe", {"num_layers": 3, "moe_every": 2, "num_kv_heads": 1}),
        ("t5", {"num_experts": 4, "experts_per_token": 2, "moe_every": 2}),
        ("deepseek", {}),
        ("merged", {"num_heads": 4, "num_kv_heads": 2}),
        ("merged", {"attention": "chunked", "attention_block": 4}),
    ],
)
def test_steps_equal_the_full_pass_for_ragged_prompts(name, overrides):
    model, params = params_of(config(name, **overrides))
    random = np.random.default_rng(0)
    texts = [random.integers(1, VOCAB, n + STEPS) for n in LENGTHS]
    prefixes = [max(n - 1, 0) for n in LENGTHS] if name == "prefix" else [0] * len(LENGTHS)
    encoder = rows([row([random.integers(1, VOCAB, n)], 9) for n in (9, 3, 6)])
    whole = batch(model.config.kind, encoder, rows([row([x], 12, [p]) for x, p in zip(texts, prefixes, strict=True)]))
    prompts = batch(
        model.config.kind,
        encoder,
        rows([row([x[:n]], 7, [p]) for x, n, p in zip(texts, LENGTHS, prefixes, strict=True)]),
    )
    expected = np.asarray(logits_of(config(name, **overrides))(whole))
    logits, cache = quick_jit(functools.partial(model.start, length=12))(params, prompts)
    step = quick_jit(model.step)
    for at in range(STEPS):
        wanted = np.stack([expected[i, n - 1 + at] for i, n in enumerate(LENGTHS)])
        np.testing.assert_allclose(logits, wanted, atol=1e-5, rtol=1e-5)
        logits, cache = step(params, cache, np.array([x[n + at] for x, n in zip(texts, LENGTHS, strict=True)]))
    wanted = np.stack([expected[i, n - 1 + STEPS] for i, n in enumerate(LENGTHS)])
    np.testing.assert_allclose(logits, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["gpt", "t5"])
def test_selected_rows_go_on_as_the_rows_they_were(name):
    model, params = params_of(config(name))
    prompts = some_batch(model.config.kind, count=3, length=4)
    _, cache = quick_jit(functools.partial(model.start, length=6))(params, prompts)
    picked = model.select(cache, np.array([2, 0, 2, 1]))
    step = quick_jit(model.step)
    ours, _ = step(params, picked, np.array([5, 6, 7, 8]))
    for place, (origin, token) in enumerate([(2, 5), (0, 6), (2, 7), (1, 8)]):
        theirs, _ = step(params, cache, np.full(3, token))
        np.testing.assert_allclose(ours[place], theirs[origin], atol=1e-6)
    assert not np.allclose(ours[0], ours[2])


@pytest.mark.parametrize("platform", ["cpu", pytest.param("gpu", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("gpt", {}),
        ("prefix", {}),
        ("prefix", {"window": 3}),
        ("t5", {}),
        ("t5", {"relative_per_layer": True, "window": 3}),
        ("llama", {"num_heads": 4, "num_kv_heads": 2, "window": 3, "attention_sinks": True}),
        ("gpt", {"num_layers": 4, "groups": 2}),
        ("deepseek", {}),
        ("merged", {"num_heads": 4, "num_kv_heads": 2}),
    ],
)
def test_hypotheses_that_share_their_prompt_go_on_as_if_each_had_its_own(name, overrides, platform):
    model, params = params_of(config(name, **overrides))
    random = np.random.default_rng(1)
    encoder = rows([row([random.integers(1, VOCAB, n)], 9) for n in (9, 3, 6)])
    texts = [row([random.integers(1, VOCAB, n)], 7, [max(n - 1, 0) * (name == "prefix")]) for n in LENGTHS]
    prompts = batch(model.config.kind, encoder, rows(texts))
    tokens = random.integers(1, VOCAB, (4, 9))
    parents = np.array([[2, 0, 0, 3, 4, 4, 7, 8, 6], [1, 1, 2, 5, 3, 4, 6, 6, 8], [0, 2, 1, 3, 3, 3, 8, 7, 6]])

    def start(params, own):
        _, cache = model.start(params, prompts, 11)
        cache = model.select(cache, np.repeat(np.arange(3), 3)) if own else model.fork(cache, 3)
        assert own == ("prompt_length" not in cache["rows"])
        return cache

    with assume_platform(platform):
        shared, apart = (
            moved_steps(model, params, functools.partial(start, own=own), move, tokens, parents)
            for own, move in ((False, model.reorder), (True, model.select))
        )
    np.testing.assert_allclose(shared, apart, atol=1e-5, rtol=1e-5)
    assert not np.allclose(shared[-1][0], shared[-1][1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt", "t5"])
def test_beams_are_the_same_on_a_mesh(name):
    model, params = params_of(config(name))
    mesh = MeshConfig(data=2, tensor=2).build(jax.devices()[:4])

    def lay(leaf, spec):
        return jax.device_put(leaf, NamedSharding(mesh, DEFAULT_RULES.spec(spec.axes, spec.shape, mesh)))

    divided = jax.tree.map(lay, params, model.specs)
    inputs = [[2, 3], [4] * 7, [5, 5, 5]]
    found = [
        [
            [hypothesis.ids for hypothesis in row]
            for row in generate_many(model, p, inputs, Beam(size=3, return_n=2), length=4, eos_id=1)
        ]
        for p in (params, divided)
    ]
    assert found[0] == found[1]
    assert all(first != second for first, second in found[0])


@pytest.mark.parametrize("name", ["gpt", "t5"])
def test_caches_and_parameters_apart_give_what_stacked_ones_give(name):
    model, params = params_of(config(name))
    prompts, ids = some_batch(model.config.kind, count=2, length=4), np.array([[5, 6, 6, 7], [8, 9, 3, 3]])

    def decoded(params):
        logits, cache = model.start(params, prompts, 7)
        cache, step, found = model.fork(cache, 2), model.stepper(params), [logits]
        for column in ids:
            logits, cache = step(cache, column)
            cache = model.reorder(cache, np.array([1, 0, 3, 3]))
            found.append(logits)
        return found, cache["layers"]["cache"]

    apart, caches = quick_jit(decoded)(params)
    assert isinstance(caches, tuple)
    with assume_platform("gpu"):
        stacked, whole = quick_jit(lambda params: decoded(params))(params)
    assert not isinstance(whole, tuple)
    for ours, theirs in zip(apart, stacked, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-5)
    for layer, ours in enumerate(caches):
        jax.tree.map(lambda a, b, i=layer: np.testing.assert_allclose(a, b[i], atol=1e-5), ours, whole)


def test_too_little_room_is_refused():
    model, params = params_of(config("gpt"))
    prompts = some_batch("decoder", length=8)
    with pytest.raises(UserError, match="prompt has 8 positions, but length allows only 5"):
        model.start(params, prompts, 5)
    with pytest.raises(UserError, match=r"25 tokens .* 24 learned positions"):
        model.start(params, prompts, 25)


def test_an_encoder_does_not_generate():
    model, params = params_of(config("bert"))
    with pytest.raises(UserError, match="does not generate"):
        model.start(params, some_batch("encoder"), 12)
    with pytest.raises(UserError, match="does not generate"):
        model.step(params, {}, np.array([1]))
