"""Multi-head latent attention: equal to attention with expanded keys and values, and a cache of the latents alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t.errors import UserError
from t2t.models import preset, t5gemma
from t2t.models.config import LayerOptions
from t2t.nn.attention.latent import Latent, LatentAttentionConfig
from t2t.nn.attention.state import KeyValues
from t2t.nn.initializers import Normal
from t2t.nn.mixers import BuildOptions, Context
from t2t.nn.parameters import Definition
from t2t.nn.rotary import Rotary
from t2t.plan import flops
from tests.models.tiny import config, quick_jit, some_batch

WIDTH, ROWS, LENGTH, HEADS, HEAD, ROTARY, VALUE, RANK = 16, 2, 7, 3, 6, 4, 5, 8
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(ROWS, LENGTH, WIDTH)).astype(np.float32)
CONFIG = LatentAttentionConfig(
    num_heads=HEADS,
    head_dim=HEAD,
    positions="rotary",
    rotary=Rotary(scaling="yarn", factor=4.0, original_length=8, mscale=0.7, mscale_all_dim=1.2),
    latent=Latent(rank=RANK, query_rank=10, rotary_dim=ROTARY, value_dim=VALUE),
)
OPTIONS = BuildOptions(width=WIDTH, kernel_init=lambda *_, **__: Normal(0.4))
CONTEXT = Context(segments=np.ones((ROWS, LENGTH), np.int32), positions=jnp.tile(jnp.arange(LENGTH), (ROWS, 1)))


@functools.cache
def drawn(config=CONFIG):
    definition = Definition(config.build(OPTIONS))
    return definition, definition.init(jax.random.key(1))


def ready(config, context):
    return dataclasses.replace(context, inputs=config.prepare(context, {}))


def applied(config, params, x=X, context=CONTEXT):
    definition = Definition(config.build(OPTIONS))
    return quick_jit(lambda params, x: definition.bind(params)(x, ready(config, context))[0])(params, x)


def rms(x, scale):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale


def rotated(x, position):
    """Rotate the last axis, halves in pairs, with the frequencies of yarn."""
    cos, sin = (np.asarray(part)[0, 0] for part in CONFIG.rotary.angles(jnp.full((1, 1), position), ROTARY))
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def looped(params):
    """Return the output computed for one query, head and key after the other, with expanded keys and values."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    out = np.zeros((ROWS, LENGTH, HEADS, VALUE))
    queries = rms(X @ params["query_latent"]["kernel"], params["query_norm"]["scale"]) @ params["query"]["kernel"]
    queries = queries.reshape(ROWS, LENGTH, HEADS, HEAD + ROTARY)
    latents = X @ params["latent"]["kernel"]
    expanded = rms(latents[..., :RANK], params["latent_norm"]["scale"]) @ params["key_value"]["kernel"]
    expanded = expanded.reshape(ROWS, LENGTH, HEADS, HEAD + VALUE)
    factor = (HEAD + ROTARY) ** -0.5 * (0.1 * 1.2 * np.log(4.0) + 1.0) ** 2
    for row, at, head in np.ndindex(ROWS, LENGTH, HEADS):
        query, logits = queries[row, at, head], []
        for key in range(at + 1):
            plain = query[:HEAD] @ expanded[row, key, head, :HEAD]
            turned = rotated(query[HEAD:], at) @ rotated(latents[row, key, RANK:], key)
            logits.append(factor * (plain + turned))
        weights = np.exp(logits) / np.exp(logits).sum()
        out[row, at, head] = weights @ expanded[row, : at + 1, head, HEAD:]
    return out.reshape(ROWS, LENGTH, -1) @ params["out"]["kernel"]


def test_the_output_is_that_of_a_loop_over_expanded_keys_and_values():
    _, params = drawn()
    np.testing.assert_allclose(applied(CONFIG, params), looped(params), atol=1e-5)


def in_step(index, length):
    return Context(
        segments=np.ones((ROWS, 1), np.int32),
        positions=index[:, None],
        index=index,
        room=jnp.ones((ROWS, length), jnp.int32),
    )


def test_steps_attend_to_latents_and_the_cache_holds_nothing_else():
    definition, params = drawn()
    whole, start = applied(CONFIG, params), 4
    before = dataclasses.replace(CONTEXT, segments=CONTEXT.segments[:, :start], positions=CONTEXT.positions[:, :start])
    prefill = quick_jit(lambda params, x: definition.bind(params).prefill(x, ready(CONFIG, before), LENGTH))
    y, state = prefill(params, X[:, :start])
    np.testing.assert_allclose(y, whole[:, :start], atol=1e-5)
    assert [leaf.shape for leaf in jax.tree.leaves(state) if leaf.size] == [(ROWS, 1, LENGTH, RANK + ROTARY)]

    @quick_jit
    def step(params, x, state, index):
        mixer, context = definition.bind(params), ready(CONFIG, in_step(index, LENGTH))
        return mixer.step_entry(x, state, context), mixer.step(x, state, context)

    for at in range(start, LENGTH):
        (entered, entry), (y, state) = step(params, X[:, at : at + 1], state, jnp.full(ROWS, at))
        np.testing.assert_allclose(y, whole[:, at : at + 1], atol=1e-5)
        np.testing.assert_allclose(entered, y, atol=1e-6)
        assert entry.key.shape == (ROWS, 1, 1, RANK + ROTARY)


def test_a_step_multiplies_latents_and_never_expands_them():
    definition, params = drawn()
    length, narrow = 1000, X[:, :1]

    def step(params, x):
        mixer, context = definition.bind(params), ready(CONFIG, in_step(jnp.full(ROWS, LENGTH), length))
        cache = jnp.zeros((ROWS, 1, length, RANK + ROTARY))
        return mixer.step(x, KeyValues(key=cache, value=cache[..., :0]), context)[0]

    found = flops.dots(step, params, narrow)
    cached = 2 * HEADS * length * (RANK + ROTARY)  # logits, and weighted sums
    absorbed = RANK * HEADS * (HEAD + VALUE)
    products = WIDTH * 10 + 10 * HEADS * (HEAD + ROTARY) + WIDTH * (RANK + ROTARY) + HEADS * VALUE * WIDTH
    assert found.total() == 2 * ROWS * (cached + absorbed + products)


def test_other_backends_and_queries_without_a_latent():
    plain = dataclasses.replace(CONFIG, latent=Latent(rank=RANK, rotary_dim=ROTARY, value_dim=VALUE))
    _, params = drawn(plain)
    chunked = dataclasses.replace(plain, backend="chunked", block=3)
    np.testing.assert_allclose(applied(chunked, params), applied(plain, params), atol=1e-5)


def test_a_bidirectional_stack_sees_later_tokens():
    _, params = drawn()
    both = dataclasses.replace(CONTEXT, bidirectional=True)
    changed = np.concatenate([X[:, :-1], 2 * X[:, -1:]], axis=1)
    one, other = (applied(CONFIG, params, x, both) for x in (X, changed))
    assert np.abs(one[:, 0] - other[:, 0]).max() > 1e-4


def test_a_decoder_with_latent_attention_can_have_an_encoder():
    settings = t5gemma.encoder_decoder_of(config("deepseek", dense_layers=0, num_experts=0))
    model = settings.build()
    params = quick_jit(model.init)(jax.random.key(0))
    hidden = quick_jit(model.hidden)(params, some_batch("encoder_decoder"))
    assert np.isfinite(hidden).all()
    cross = params["decoder"]["layers"]["cross_attention"]
    assert cross["key"]["kernel"].shape == (2, 16, 2 * 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positions": "none"}, r"model.positions is 'none', and model.latent.rank is 8.*Nearest: rotary"),
        ({"num_kv_heads": 1}, r"model.num_kv_heads is 1, and model.latent.rank is 8.*Nearest: 2"),
        ({"qk_norm": True}, r"model.qk_norm is True, and model.latent.rank is 8.*Nearest: False"),
        ({"window": 4}, r"model.window is 4, and model.latent.rank is 8.*Nearest: None"),
        ({"pattern": (LayerOptions(positions="none"),)}, r"model.pattern\[0\]: model.positions is 'none'"),
    ],
)
def test_what_does_not_suit_latent_attention_is_refused(options, message):
    with pytest.raises(UserError, match=message) as caught:
        config("deepseek", **options)
    assert "\n" not in str(caught.value)


def test_an_odd_width_and_a_scale_without_yarn_are_refused():
    with pytest.raises(UserError, match=r"model.latent.rotary_dim is 3; .*Nearest: 4"):
        Latent(rank=8, rotary_dim=3)
    with pytest.raises(UserError, match=r"mscale is 1.0, but model.rotary.scaling 'none' does not use it"):
        Rotary(mscale=1.0)


def test_merged_attention_is_refused():
    decoder = config("deepseek", num_experts=0, dense_layers=0)
    with pytest.raises(UserError, match=r"model.latent.rank is 8 together with model.merged_attention"):
        dataclasses.replace(t5gemma.encoder_decoder_of(decoder), merged_attention=True)


def test_the_sizes_of_the_cache_of_deepseek_v3():
    whole = preset("deepseek:v3")
    assert whole.decoder.latent.rank + whole.decoder.latent.rotary_dim == 576
    mixer = whole.pattern_of(whole.decoder)[0].mixer
    assert mixer.logit_scale == pytest.approx(192**-0.5 * (0.1 * np.log(40) + 1) ** 2)
    assert mixer.rotary.magnitude == 1.0
