"""Models with ternary weights: packing, decoding, meshes, FLOPs, and the same results with weights in two bits."""

import functools

import jax
import numpy as np
import optax
import pytest

from t2t.adapters import Adapter
from t2t.decode import Greedy, generate
from t2t.errors import UserError
from t2t.models import bitnet
from t2t.nn.model import ParamSpec
from t2t.nn.ternary import ternary
from t2t.plan.flops import dots
from t2t.sharding import DEFAULT_RULES, MeshConfig, activate
from tests.models.tiny import VOCAB, batch, config, loss, params_of, quick_jit, row, rows, some_batch

SETTINGS = bitnet.bitnet(
    num_layers=2, d_model=16, num_heads=2, num_kv_heads=1, d_ff=24, vocab_size=VOCAB, max_length=24
)
RANDOM = np.random.default_rng(0)
SECOND = RANDOM.integers(1, VOCAB, 7)
PACKED = batch("decoder", None, rows([row([RANDOM.integers(1, VOCAB, 6), SECOND], 16) for _ in range(3)]))
"""Rows of two examples, which differ in their first one alone."""


@functools.cache
def stored():
    """Return the model with weights in two bits, and its parameters."""
    base, params = params_of(SETTINGS)
    model = base.quantized("ternary")
    return model, quick_jit(model.compressed)(params)


@functools.cache
def logits(two_bits):
    model, params = stored() if two_bits else params_of(SETTINGS)
    return np.asarray(quick_jit(model.logits)(params, PACKED))


def test_an_example_is_rounded_the_same_whatever_it_is_packed_with():
    for other in logits(False)[1:]:
        np.testing.assert_array_equal(other[6:13], logits(False)[0, 6:13])
        assert not np.array_equal(other[:6], logits(False)[0, :6])


def test_weights_in_two_bits_give_the_same_logits():
    np.testing.assert_allclose(logits(True), logits(False), atol=1e-5 * np.abs(logits(False)).max())


def test_parameters_in_two_bits_are_a_sixteenth_and_are_rounded_to_themselves():
    model, params = stored()
    _, floats = params_of(SETTINGS)
    kernel, own = (tree["decoder"]["layers"]["mlp"]["up"]["kernel"] for tree in (floats, params))
    assert own["codes"].nbytes * 16 == kernel.nbytes
    back = quick_jit(model.expanded)(params)["decoder"]["layers"]["mlp"]["up"]["kernel"]
    (weights, scale), (wanted, wanted_scale) = jax.vmap(ternary)(back), jax.vmap(ternary)(kernel)
    np.testing.assert_array_equal(weights, wanted)
    np.testing.assert_allclose(scale, wanted_scale, rtol=1e-6)


def test_steps_of_decoding_with_weights_in_two_bits_are_those_of_the_full_pass():
    model, params = stored()
    prompt = batch("decoder", None, row([SECOND[:4]], 4))

    def decoded(params):
        first, cache = model.start(params, prompt, 7)
        step, found = model.stepper(params), [first]
        for token in SECOND[4:]:
            after, cache = step(cache, np.array([token]))
            found.append(after)
        return found

    wanted = np.asarray(quick_jit(model.logits)(params, batch("decoder", None, row([SECOND], 7))))[0, 3:]
    for found, one in zip(quick_jit(decoded)(params), wanted, strict=True):
        # An activation that rounds the other way is 1% of its vector's largest.
        assert np.linalg.norm(found[0] - one) < 0.02 * np.linalg.norm(one)


@pytest.mark.slow
def test_generated_texts_are_those_of_the_float_parameters():
    prompt = batch("decoder", None, row([SECOND[:4]], 4))
    (model, params), (base, floats) = stored(), params_of(SETTINGS)
    one, other = (
        generate(m, p, prompt, Greedy(), length=6, eos_id=VOCAB) for m, p in ((model, params), (base, floats))
    )
    np.testing.assert_array_equal(one.ids, other.ids)
    np.testing.assert_allclose(one.scores, other.scores, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("two_bits", [False, True])
def test_loss_and_gradients_on_a_mesh_are_near_those_on_one_device(two_bits):
    """On a mesh, means and sums have another order: an activation that then rounds the other way is rounded otherwise, not worse."""
    model, params = stored() if two_bits else params_of(SETTINGS)
    own = some_batch("decoder", count=8, length=8)
    some = {name: leaf for name, leaf in params.items() if name != "decoder"} if two_bits else params
    value = jax.value_and_grad(lambda some, params: loss(model, {**params, **some}, own))
    expected, gradients = quick_jit(value)(some, params)
    mesh = MeshConfig(data=2, fsdp=4).build()  # one head of keys: no tensor axis
    places = jax.tree.map(
        lambda spec: DEFAULT_RULES.sharding(spec.axes, spec.shape, mesh),
        model.specs,
        is_leaf=lambda leaf: isinstance(leaf, ParamSpec),
    )
    spread = jax.device_put(params, places)
    with activate(mesh):
        found, divided = quick_jit(value)({name: spread[name] for name in some}, spread)
    np.testing.assert_allclose(found, expected, rtol=2e-3)
    off = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), divided, gradients)
    assert optax.global_norm(off) < 0.05 * optax.global_norm(gradients)
    kernel = spread["decoder"]["layers"]["mlp"]["up"]["kernel"]
    codes = kernel["codes"] if two_bits else kernel
    assert codes.addressable_shards[0].data.size * 4 == codes.size


def test_flops_are_those_of_the_matrix_products():
    model, params = params_of(SETTINGS)
    width, heads, inner, length = 16, 8, 24, 8
    products = 2 * (2 * width**2 + 2 * width * heads + 3 * width * inner) + width * VOCAB
    scores = 2 * 2 * length * width
    assert dots(model.logits, params, some_batch("decoder", count=2, length=length)).total() == 2 * 2 * length * (
        products + scores
    )


def test_other_formats_and_other_models_are_refused():
    with pytest.raises(UserError, match=r"quantize 'nf4' .*ternary weights already .*Nearest: ternary"):
        SETTINGS.build().quantized("nf4")
    with pytest.raises(UserError, match=r"quantize 'ternary' .*do not round its kernels .*Nearest: none"):
        config("llama").build().quantized("ternary")


def test_an_adapter_is_not_merged_into_kernels_that_are_rounded():
    model = Adapter(rank=2, targets=("**/mlp/*",)).applied(SETTINGS.build())
    with pytest.raises(UserError, match=r"would round its change away .*Nearest: --format peft"):
        model.merged({})
