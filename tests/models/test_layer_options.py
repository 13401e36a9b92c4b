"""Choices of a layer and around the stack: norms of queries and keys, sandwich norms, bounded logits, scaled embeddings, windows, unequal widths."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t.errors import UserError
from t2t.models import config as models_config
from t2t.nn.attention import attend_step, attention
from t2t.nn.embeddings import sinusoids
from t2t.nn.masks import Mask
from t2t.nn.rotary import Rotary
from tests.models.tiny import VOCAB, batch, config, logits_of, loss, params_of, quick_jit, row, rows, some_batch

ALL = {
    "norm": "rms_plus_one",
    "attention_scale": 0.3,
    "norm_place": "sandwich",
    "qk_norm": True,
    "attention_biases": True,
    "attention_output_bias": False,
    "attention_softcap": 2.0,
    "final_softcap": 5.0,
    "embedding_scale": 4.0,
    "embedding_norm": True,
    "rotary": Rotary(share=0.5, scaling="yarn", factor=4.0, original_length=16),
    "window": 5,
}
LEARNED_AND_RELATIVE = {"positions": "relative", "learned_positions": True, "buckets": 8, "max_distance": 12}
OUTPUT = {**ALL, "norm_place": "output", "qk_norm_whole": True, "num_kv_heads": 1, "parallel": True}


def unequal(**options):
    """An encoder of width 16 and a decoder of width 12."""
    made = config("t5", **options)
    return dataclasses.replace(made, decoder=dataclasses.replace(made.decoder, d_model=12, head_dim=8, num_layers=3))


@pytest.mark.parametrize(
    ("name", "options", "backend"),
    [
        ("llama", ALL, "einsum"),
        ("llama", ALL, "chunked"),
        ("llama", OUTPUT, "einsum"),
        ("gpt", LEARNED_AND_RELATIVE, "einsum"),
    ],
    ids=["all", "all in blocks", "norms of outputs, parallel", "learned and relative positions"],
)
def test_packed_equals_unpacked_with_all_of_them(name, options, backend):
    random = np.random.default_rng(0)
    texts = [random.integers(1, VOCAB, n) for n in (4, 8, 3, 5)]
    own = batch("decoder", None, rows([row(texts, 21), *(row([x], 21) for x in texts)]))
    logits = np.asarray(logits_of(config(name, **options, attention=backend, attention_block=4))(own))
    at = 0
    for index, text in enumerate(texts):
        np.testing.assert_allclose(logits[0, at : at + len(text)], logits[index + 1, : len(text)], atol=1e-5, rtol=1e-5)
        at += len(text)
    assert float(np.std(logits)) > 0.05


@pytest.mark.parametrize(
    "settings",
    [
        config("llama", **ALL),
        config("llama", **OUTPUT),
        unequal(parallel=True),
        unequal(separate_embeddings=True, encoder_embedding_scale=3.0),
        config("bart"),
        config("pegasus"),
        config("gpt", **LEARNED_AND_RELATIVE),
    ],
    ids=[
        "all",
        "norms of outputs, parallel",
        "unequal widths, parallel",
        "unequal widths, separate embeddings",
        "separate positions",
        "sinusoidal positions",
        "learned and relative positions",
    ],
)
def test_steps_equal_the_full_pass(settings):
    lengths, steps = [6, 1, 4], 3
    model, params = params_of(settings)
    random = np.random.default_rng(0)
    texts = [random.integers(1, VOCAB, n + steps) for n in lengths]
    encoder = rows([row([random.integers(1, VOCAB, n)], 9) for n in (9, 3, 6)])
    expected = np.asarray(logits_of(settings)(batch(settings.kind, encoder, rows([row([x], 12) for x in texts]))))
    prompts = batch(settings.kind, encoder, rows([row([x[:n]], 7) for x, n in zip(texts, lengths, strict=True)]))

    logits, cache = quick_jit(functools.partial(model.start, length=12))(params, prompts)
    found, step = [logits], quick_jit(lambda params, cache, ids: model.stepper(params)(cache, ids))
    for at in range(steps):
        logits, cache = step(params, cache, np.array([x[n + at] for x, n in zip(texts, lengths, strict=True)]))
        found.append(logits)
    for at, logits in enumerate(found):
        wanted = np.stack([expected[i, n - 1 + at] for i, n in enumerate(lengths)])
        np.testing.assert_allclose(logits, wanted, atol=1e-5, rtol=1e-5)


def test_every_parameter_of_stacks_of_unequal_widths_has_a_gradient():
    model, params = params_of(unequal())
    assert model.specs["encoder_widen"]["kernel"].shape == (12, 16)
    assert model.specs["decoder"]["layers"]["cross_attention"]["key"]["kernel"].shape == (3, 16, 16)
    gradients = quick_jit(jax.grad(lambda p: loss(model, p, some_batch("encoder_decoder"))))(params)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert float(jnp.abs(gradient).max()) > 1e-7, path


def changed(params, *path, factor):
    """Return the parameters with one of them times a factor."""
    if not path:
        return params * factor
    return {**params, path[0]: changed(params[path[0]], *path[1:], factor=factor)}


@pytest.mark.parametrize(("place", "whole"), [("sandwich", False), ("output", True)])
def test_the_size_of_queries_and_of_what_a_sublayer_gives_is_normalised_away(place, whole):
    model, params = params_of(config("llama", qk_norm=True, qk_norm_whole=whole, norm_place=place))
    run, own = functools.partial(quick_jit(model.logits), batch=some_batch("decoder")), ("decoder", "layers")
    plain = run(params)
    for path in (("attention", "query", "kernel"), ("attention", "key", "kernel"), ("mlp", "down", "kernel")):
        np.testing.assert_allclose(run(changed(params, *own, *path, factor=8.0)), plain, atol=1e-3)
    for path in (("attention", "query_norm", "scale"), ("attention", "value", "kernel"), ("mlp_output_norm", "scale")):
        other = changed(params, *own, *path, factor=8.0)
        same = path[-2] == "value"  # what attention gives is normalised too
        assert np.allclose(run(other), plain, atol=1e-3) == same, path


def test_final_logits_are_bounded():
    plain, capped = (
        logits_of(config("llama", **options))(some_batch("decoder")) for options in ({}, {"final_softcap": 3.0})
    )
    np.testing.assert_allclose(capped, 3.0 * np.tanh(np.asarray(plain) / 3.0), atol=1e-5)


def test_a_scale_of_embeddings_is_that_of_their_table():
    scaled, params = params_of(config("llama", embedding_scale=3.0))
    plain, _ = params_of(config("llama"))
    own = some_batch("decoder")
    other = changed(params, "embeddings", "token", "table", factor=3.0)
    np.testing.assert_allclose(quick_jit(scaled.logits)(params, own), quick_jit(plain.logits)(other, own), atol=1e-5)


def test_sinusoidal_positions_are_the_formula():
    positions = np.array([[0, 1, 7], [511, 1023, 5000]])
    angles = positions[..., None] / 10000.0 ** (np.arange(0, 12, 2) / 12)
    wanted = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)
    np.testing.assert_allclose(sinusoids(jnp.asarray(positions), 12), wanted, atol=5e-6)
    with pytest.raises(UserError, match=r"the embeddings have the odd width 15.*Nearest: 16"):
        config("pegasus", d_model=15, num_heads=3).build()


@pytest.mark.parametrize("backend", ["einsum", "chunked"])
def test_attention_with_bounded_logits_is_the_formula(backend):
    random = np.random.default_rng(0)
    q, k, v = (random.normal(size=(2, 9, heads, 8)).astype(np.float32) * 2 for heads in (4, 2, 2))
    segments = np.array([[1] * 5 + [2] * 4, [1] * 7 + [0] * 2])
    mask = Mask(queries=segments, keys=segments, index=np.arange(9)[None], causal=True)
    found = attention(q, k, v, mask=mask, scale=0.5, softcap=1.5, backend=backend, block=4)
    logits = 1.5 * np.tanh(np.einsum("bqhd,bkhd->bhqk", 0.5 * q, k.repeat(2, 2)) / 1.5)
    seen = np.asarray(mask.dense())
    weights = np.where(seen, np.exp(logits), 0.0)
    weights = weights / np.maximum(weights.sum(-1, keepdims=True), 1e-9)
    wanted = np.einsum("bhqk,bkhd->bqhd", weights, v.repeat(2, 2))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    last = Mask(queries=segments[:, 6:7], keys=segments, index=np.array([[6]]), causal=True)
    stepped = attend_step(q[:, 6:7], k.swapaxes(1, 2), v.swapaxes(1, 2), mask=last, scale=0.5, softcap=1.5)
    np.testing.assert_allclose(stepped, wanted[:, 6:7], atol=1e-5)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("backend", ["einsum", "chunked"])
def test_a_token_of_an_encoder_sees_half_of_its_window_on_either_side(backend, exact):
    settings = config("bert", window=4, exact_window=exact, num_layers=1, attention=backend, attention_block=3)
    model, params = params_of(settings)
    own = some_batch("encoder", count=1, length=9)
    ids = np.array(own.encoder.ids)
    ids[:, 4] = (ids[:, 4] + 1) % VOCAB
    other = dataclasses.replace(own, encoder=dataclasses.replace(own.encoder, ids=ids))
    run = quick_jit(model.hidden)
    moved = np.abs(run(params, own) - run(params, other)).max(axis=(0, 2)) > 0
    # Exactly four tokens: one before a token, itself and two after it.
    assert list(np.flatnonzero(moved)) == ([2, 3, 4, 5] if exact else [2, 3, 4, 5, 6])


def test_merged_attention_is_refused_where_it_cannot_be():
    with pytest.raises(UserError, match=r"merged_attention is True, but model.decoder.positions is 'relative'"):
        config("t5", merged_attention=True)
    merged = config("merged")
    with pytest.raises(UserError, match=r"cannot attend to an encoder's output .*Nearest: chunked, einsum"):
        dataclasses.replace(merged, attention="splash")
    with pytest.raises(UserError, match=r"model.shared is True together with model.merged_attention"):
        dataclasses.replace(merged, shared=True)
    with pytest.raises(UserError, match=r"model.encoder.d_model is 32; the same attention reads both"):
        dataclasses.replace(merged, encoder=dataclasses.replace(merged.encoder, d_model=32))


def test_backends_that_do_not_bound_logits_are_refused():
    with pytest.raises(
        UserError,
        match=r"'cudnn' .*has no soft bound on logits, and attention_softcap is 2.0.*Nearest: chunked, einsum",
    ):
        config("llama", attention="cudnn", attention_softcap=2.0, dtype="bfloat16")


def test_a_layers_rotary_positions_need_whole_pairs():
    with pytest.raises(
        UserError, match=r"pattern\[1\]: model.rotary.share 0.3 of model.head_dim 8 is 2|share 0.4 of .* is 3"
    ):
        config("llama", pattern=(models_config.LayerOptions(), models_config.LayerOptions(rotary=Rotary(share=0.4))))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder_embedding_scale": 2.0}, r"encoder_embedding_scale is 2.0, but model.separate_embeddings is False"),
        ({"separate_embeddings": True, "separate_positions": True}, r"separate_positions is True, .*Nearest: False"),
    ],
)
def test_choices_of_embeddings_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        config("t5", **options)
