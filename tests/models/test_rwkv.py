"""Decoders of RWKV's layers: packing, decoding with a state of constant size, beams, meshes, an encoder-decoder, FLOPs, and what is refused."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from t2t.errors import UserError
from t2t.models import count, preset, rwkv
from t2t.models.families import exportable
from t2t.nn.recurrent.rwkv7 import RWKV7Config
from t2t.plan.flops import dots
from t2t.sharding import DEFAULT_RULES, MeshConfig, activate, assume_platform
from tests.models.tiny import (
    VOCAB,
    batch,
    config,
    logits_of,
    loss,
    moved_steps,
    params_of,
    quick_jit,
    row,
    rows,
    some_batch,
)

SIZES = {"num_layers": 2, "d_model": 16, "d_ff": 24, "vocab_size": VOCAB}
MIXER = RWKV7Config(head_dim=8, decay_rank=3, rate_rank=4, value_rank=2, gate_rank=5, chunk=4)
MODELS = {
    "RWKV-4": rwkv.rwkv4(**SIZES, chunk=4),
    "RWKV-7": rwkv.rwkv7(**SIZES, mixer=MIXER),
}
LENGTHS, STEPS = [6, 1, 4], 4
models = pytest.mark.parametrize("settings", MODELS.values(), ids=MODELS)


def with_encoder(settings):
    """Return an encoder-decoder of T5's encoder and this decoder's layers."""
    t5 = config("t5")
    layers = {name: getattr(settings.decoder, name) for name in ("first", "pattern")}
    own = {"num_layers": settings.decoder.num_layers, **layers}
    return dataclasses.replace(t5, decoder=dataclasses.replace(t5.decoder, **own))


BOTH = {**MODELS, **{f"T5 with {name}": with_encoder(settings) for name, settings in MODELS.items()}}


@models
def test_packed_equals_unpacked(settings):
    random = np.random.default_rng(0)
    texts = [random.integers(1, VOCAB, n) for n in (4, 8, 1, 5)]
    own = batch("decoder", None, rows([row(texts, 21), *(row([x], 21) for x in texts)]))
    logits, at = np.asarray(logits_of(settings)(own)), 0
    for index, text in enumerate(texts):
        np.testing.assert_allclose(logits[0, at : at + len(text)], logits[index + 1, : len(text)], atol=1e-5, rtol=1e-5)
        at += len(text)
    assert np.isfinite(logits).all()
    assert float(np.std(logits)) > 0.05


@pytest.mark.parametrize("settings", BOTH.values(), ids=BOTH)
def test_steps_equal_the_full_pass_for_ragged_prompts(settings):
    model, params = params_of(settings)
    random = np.random.default_rng(0)
    texts = [random.integers(1, VOCAB, n + STEPS) for n in LENGTHS]
    encoder = rows([row([random.integers(1, VOCAB, n)], 9) for n in (9, 3, 6)])
    expected = np.asarray(logits_of(settings)(batch(settings.kind, encoder, rows([row([x], 12) for x in texts]))))
    prompts = batch(settings.kind, encoder, rows([row([x[:n]], 7) for x, n in zip(texts, LENGTHS, strict=True)]))

    logits, cache = quick_jit(functools.partial(model.start, length=12))(params, prompts)
    found, step = [logits], quick_jit(lambda params, cache, ids: model.stepper(params)(cache, ids))
    for at in range(STEPS):
        logits, cache = step(params, cache, np.array([x[n + at] for x, n in zip(texts, LENGTHS, strict=True)]))
        found.append(logits)
    for at, logits in enumerate(found):
        wanted = np.stack([expected[i, n - 1 + at] for i, n in enumerate(LENGTHS)])
        np.testing.assert_allclose(logits, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("platform", ["cpu", pytest.param("gpu", marks=pytest.mark.slow)])
@models
def test_hypotheses_go_on_as_if_each_had_its_own_prompt(settings, platform):
    model, params = params_of(settings)
    random = np.random.default_rng(1)
    prompts = batch("decoder", None, rows([row([random.integers(1, VOCAB, n)], 7) for n in LENGTHS]))
    tokens = random.integers(1, VOCAB, (3, 6))
    parents = np.array([[1, 0, 2, 2, 5, 4], [0, 0, 3, 2, 4, 5]])

    def start(params, own):
        _, cache = model.start(params, prompts, 11)
        cache = model.select(cache, np.repeat(np.arange(3), 2)) if own else model.fork(cache, 2)
        return cache

    with assume_platform(platform):
        shared, apart = (
            moved_steps(model, params, functools.partial(start, own=own), move, tokens, parents)
            for own, move in ((False, model.reorder), (True, model.select))
        )
    np.testing.assert_allclose(shared, apart, atol=1e-5, rtol=1e-5)
    assert not np.allclose(shared[-1][0], shared[-1][1])


@models
def test_the_state_has_the_same_size_for_any_length(settings):
    model, params = params_of(settings)

    def state(prompt, length):
        cache = jax.eval_shape(lambda: model.start(params, some_batch("decoder", length=prompt), length))[1]
        return jax.tree.map(lambda leaf: leaf.shape, cache["layers"]["cache"])

    assert state(3, 10) == state(300, 100_000)


@pytest.mark.slow
@models
def test_loss_and_gradients_on_a_mesh_equal_those_on_one_device(settings):
    model, params = params_of(settings)
    random = np.random.default_rng(0)
    texts = [[random.integers(1, VOCAB, n) for n in random.integers(2, 6, 2)] for _ in range(4)]
    own = batch("decoder", None, rows([row(pair, 12) for pair in texts]))
    value = jax.value_and_grad(lambda params: loss(model, params, own))
    expected, gradients = quick_jit(value)(params)
    mesh = MeshConfig(data=2, fsdp=2, tensor=2).build()
    places = jax.tree.map(lambda spec, _: DEFAULT_RULES.sharding(spec.axes, spec.shape, mesh), model.specs, params)
    with activate(mesh):
        spread, divided = quick_jit(value, in_shardings=(places,), out_shardings=(None, places))(
            jax.device_put(params, places)
        )
    np.testing.assert_allclose(expected, spread, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradients, divided)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(gradient).all(), path
        assert float(np.abs(gradient).max()) > 1e-7, path


def test_flops_are_those_of_the_matrix_products():
    model, params = params_of(MODELS["RWKV-4"])
    own = some_batch("decoder", count=2, length=8)
    width, inner, layers = 16, 24, 2
    # Four products of time mixing, two of channel mixing and its gate; the WKV operator has none.
    weights = layers * (4 * width**2 + 2 * width * inner + width**2) + width * VOCAB
    assert dots(model.logits, params, own)["float32"] == 2 * 2 * 8 * weights


def test_flops_of_rwkv_7_are_those_of_its_products_and_its_operator():
    model, params = params_of(MODELS["RWKV-7"])
    rows, length, chunk = 2, 10, 4
    width, inner, layers, head = 16, 24, 2, 8
    ranks = 3 + 4 + 5
    weights = layers * (4 * width**2 + 2 * width * inner + 2 * width * ranks) + (layers - 1) * 2 * width * 2
    # Ten tokens are three chunks of four. Solving the system of a chunk takes (chunk^2 - 1) / 3 multiply-adds for the inverse, and chunk for each of the values.
    operator = 4 * chunk * head + 4 * chunk * head + 4 * head * head + (chunk**2 - 1) // 3
    padded = rows * 12 * (width // head) * layers
    wanted = 2 * rows * length * (weights + width * VOCAB) + padded * 2 * operator
    assert dots(model.logits, params, some_batch("decoder", count=rows, length=length))["float32"] == wanted


def test_later_layers_use_the_values_of_the_first():
    model, params = params_of(MODELS["RWKV-7"])
    own = some_batch("decoder")
    gradients = quick_jit(jax.grad(lambda params: loss(model, params, own)))(params)
    layers = gradients["decoder"]["layers"]["time_mixing"]["residual"]
    assert all(float(np.abs(leaf).max()) > 1e-6 for leaf in jax.tree.leaves(layers))
    assert "residual" not in params["decoder"]["first"]["0"]["time_mixing"]


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["full", "dots"])
def test_remat_changes_no_gradient_of_the_first_layers_values(remat):
    settings = MODELS["RWKV-7"]
    model, params = params_of(settings)
    again, own = dataclasses.replace(settings, remat=remat).build(), some_batch("decoder")
    one, other = (quick_jit(jax.grad(lambda p, m=m: loss(m, p, own)))(params) for m in (model, again))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), one, other)


@pytest.mark.parametrize("size", ["169m", "14b"])
def test_the_number_of_parameters_is_the_formula_of_the_paper(size):
    made = preset(f"rwkv:4-{size}")
    vocabulary, layers, width = made.vocab_size, made.decoder.num_layers, made.decoder.d_model
    # Peng et al. 2023, section 4.1
    assert count(made) == 2 * vocabulary * width + 13 * width**2 * layers + width * (11 * layers + 4)


def test_the_number_of_parameters_is_that_of_the_released_checkpoints():
    sizes = {"169m": 169_342_464, "430m": 430_397_440, "1.5b": 1_515_106_304, "3b": 2_984_627_200}
    assert {size: count(preset(f"rwkv:4-{size}")) for size in sizes} == sizes


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: dataclasses.replace(s, mask="prefix"), r"has no prefix mask .*Nearest: causal"),
        (lambda s: s.check_run(packing=True, context=2), r"cannot divide rows along their length \(--mesh.context 2\)"),
        (
            lambda s: config("bert", first=s.decoder.first, pattern=s.decoder.pattern),
            r"does not see later tokens, which the layers of an encoder must see",
        ),
        (
            lambda s: config("bert", pattern=(dataclasses.replace(s.decoder.pattern[0], mixer=None),)),
            r"feed-forward layer ChannelMixingConfig does not see later tokens",
        ),
    ],
    ids=["prefix", "context", "encoder", "channel mixing in an encoder"],
)
@models
def test_what_it_cannot_do_is_refused_in_one_line(settings, make, message):
    with pytest.raises(UserError, match=message) as caught:
        make(settings)
    assert "\n" not in str(caught.value)


def test_a_layer_without_the_values_of_a_first_one_is_refused():
    made = MODELS["RWKV-7"]
    with pytest.raises(UserError, match=r"pattern\[0\].mixer is a RWKV7Config that needs values of an earlier layer"):
        dataclasses.replace(made.decoder, first=())
    with pytest.raises(
        UserError, match=r"pattern\[0\].mixer is a RWKV7Config that hands values on .*Nearest: model.first"
    ):
        dataclasses.replace(made.decoder, pattern=made.decoder.first)
    with pytest.raises(UserError, match=r"head_dim is 8, which does not divide model.d_model = 20. Nearest: 10"):
        rwkv.rwkv7(num_layers=2, d_model=20, vocab_size=VOCAB, mixer=MIXER).build()
    with pytest.raises(UserError, match=r"chunk 65 .*Nearest: 64"):
        RWKV7Config(chunk=65)


def test_transformers_has_no_rwkv_7():
    with pytest.raises(UserError, match=r"no decoder there has layers with a RWKV7Config"):
        exportable(MODELS["RWKV-7"])
