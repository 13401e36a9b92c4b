"""Models on a mesh: parameters are made divided as their logical axes say, and the logits stay the same."""

import functools

import jax
import numpy as np
import pytest

from t2t.errors import UserError
from t2t.nn.model import ParamSpec
from t2t.sharding import DEFAULT_RULES, MeshConfig, activate, interpreted
from tests.models.tiny import VOCAB, batch, config, loss, params_of, quick_jit, row, rows, some_batch


def layout(specs, mesh):
    return jax.tree.map(
        lambda spec: DEFAULT_RULES.sharding(spec.axes, spec.shape, mesh),
        specs,
        is_leaf=lambda spec: isinstance(spec, ParamSpec),
    )


MIXED = {
    "data 2, fsdp 2, tensor 2": MeshConfig(data=2, fsdp=2, tensor=2),
}
OTHERS = {
    "fsdp 2, context 2, tensor 2": MeshConfig(data=1, fsdp=2, context=2, tensor=2),
    "two slices of fsdp 2, context 2": MeshConfig(data=2, fsdp=2, context=2, slices=2),
    "fsdp 8": MeshConfig(data=1, fsdp=8),
    "tensor 8": MeshConfig(data=1, tensor=8),
    "data 2, tensor 4": MeshConfig(data=2, tensor=4),
    "fsdp 4, tensor 2": MeshConfig(data=1, fsdp=4, tensor=2),
    "data 4, context 2": MeshConfig(data=4, context=2),
}
MESHES = [pytest.param(mesh, id=name) for name, mesh in MIXED.items()]
MESHES += [pytest.param(mesh, id=name, marks=pytest.mark.slow) for name, mesh in OTHERS.items()]


def packed_batch(kind):
    """Return eight rows of two examples, of other lengths in each row, and padding."""
    random = np.random.default_rng(0)

    def tokens(length):
        lengths = random.integers(2, length // 2, (8, 2))
        return rows([row([random.integers(1, VOCAB, n) for n in pair], length) for pair in lengths])

    return batch(kind, tokens(16), tokens(12) if kind != "encoder" else tokens(16))


@functools.cache
def alone(name, options=()):
    model, params = params_of(config(name, num_heads=8, dropout=0.1, **dict(options)))
    return model, params, quick_jit(jax.value_and_grad(functools.partial(packed_loss, model)))(params)


def packed_loss(model, params):
    return loss(model, params, packed_batch(model.config.kind), dropout_key=jax.random.key(0))


def check_on(mesh, name, base=(), **options):
    """Compare loss and gradients on the mesh with those of one device; return the gradients."""
    model, params, (expected, gradients) = alone(name, base)
    if options:
        model = config(name, num_heads=8, dropout=0.1, **dict(base), **options).build()
    places = layout(model.specs, mesh)
    with activate(mesh):
        spread, divided = quick_jit(
            jax.value_and_grad(functools.partial(packed_loss, model)),
            in_shardings=(places,),
            out_shardings=(None, places),
        )(jax.device_put(params, places))
    np.testing.assert_allclose(expected, spread, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradients, divided)
    return divided


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", ["t5", "gpt", "bert"])
def test_loss_and_gradients_on_a_mesh_equal_those_on_one_device(name, mesh):
    divided = check_on(mesh.build(), name)
    kernel = divided["encoder" if name == "bert" else "decoder"]["layers"]["attention"]["query"]["kernel"]
    assert kernel.addressable_shards[0].data.size * mesh.fsdp * mesh.tensor == kernel.size


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t5", "gpt", "bert", "merged"])
def test_blocks_of_attention_are_those_of_each_devices_strip(name):
    # Dropout of attention's weights is drawn by blocks, so it is left out here.
    mesh = MeshConfig(data=4, context=2).build()
    check_on(mesh, name, (("attention_dropout", 0.0),), attention="chunked", attention_block=4)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "backend"), [("gpt", "splash"), ("bert", "splash"), ("t5", "flash")])
def test_kernels_of_tpus_are_each_devices_own(name, backend):
    mesh = MeshConfig(data=2, fsdp=2, tensor=2).build()
    with interpreted():
        check_on(mesh, name, (("attention_dropout", 0.0),), attention=backend)


def test_a_norm_over_all_heads_sees_those_of_all_devices():
    options = (("norm_place", "output"), ("qk_norm", True), ("qk_norm_whole", True), ("parallel", True))
    check_on(MeshConfig(data=2, fsdp=2, tensor=2).build(), "llama", options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [(), (("expert_capacity", 1.0), ("moe_every", 2))], ids=["sorted", "limited, every second layer"]
)
def test_experts_on_a_mesh_are_those_of_one_device(options):
    divided = check_on(MeshConfig(data=2, fsdp=2, tensor=2).build(), "moe", options)
    layers = divided["decoder"]["layers"]
    kernel = (layers["1"] if options else layers)["moe"]["up"]
    assert kernel.addressable_shards[0].data.size * 4 == kernel.size


LIKE_GPT_OSS = (("biases", True), ("expert_limit", 0.5), ("activation", "quick_gelu"), ("attention_sinks", True))


LIMITED = (("expert_capacity", 1.0),)
DIVIDED = {
    "fsdp 2, expert 2, tensor 2": MeshConfig(data=1, fsdp=2, expert=2, tensor=2),
    "data 2, expert 4": MeshConfig(data=2, expert=4),
    "data 4, expert 2": MeshConfig(data=4, expert=2),
    "fsdp 2, expert 4": MeshConfig(data=1, fsdp=2, expert=4),
    "expert 4, tensor 2": MeshConfig(data=1, expert=4, tensor=2),
    "expert 2, context 2, tensor 2": MeshConfig(data=1, expert=2, context=2, tensor=2),
}
QUICK = (("fsdp 2, expert 2, tensor 2", LIKE_GPT_OSS), ("data 2, expert 4", LIMITED))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param(name, options, marks=[] if (name, options) in QUICK else pytest.mark.slow)
        for name in DIVIDED
        for options in (LIKE_GPT_OSS, LIMITED)
    ],
    ids=[f"{name}, {how}" for name in DIVIDED for how in ("sorted with biases", "limited")],
)
def test_experts_divided_over_devices_are_those_of_one_device(name, options):
    mesh = DIVIDED[name]
    divided = check_on(mesh.build(), "moe", options)
    kernel = divided["decoder"]["layers"]["moe"]["up"]
    assert kernel.addressable_shards[0].data.size * mesh.expert * mesh.fsdp * mesh.tensor == kernel.size


ROOMY = (("expert_capacity", 1.0), ("num_experts", 4), ("moe_every", 2))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t5", "bert"])
@pytest.mark.parametrize("options", [ROOMY, ROOMY[1:2]], ids=["limited, every second layer", "sorted"])
def test_experts_of_encoders_and_encoder_decoders_are_those_of_one_device(name, options):
    divided = check_on(MeshConfig(data=1, fsdp=2, expert=2, tensor=2).build(), name, options)
    for side in set(divided) & {"encoder", "decoder"}:
        layers = divided[side]["layers"]
        kernel = (layers["1"] if len(options) > 1 else layers)["moe"]["up"]
        assert kernel.addressable_shards[0].data.size * 8 == kernel.size


@pytest.mark.slow
def test_latent_attention_and_the_load_of_experts_on_a_mesh_are_those_of_one_device():
    divided = check_on(MeshConfig(data=1, expert=2, fsdp=2, tensor=2).build(), "deepseek")
    kernel = divided["decoder"]["layers"]["attention"]["key_value"]["kernel"]
    assert kernel.addressable_shards[0].data.size * 4 == kernel.size


@pytest.mark.slow
def test_sums_of_blocks_are_the_same_on_a_mesh():
    check_on(MeshConfig(data=2, fsdp=2, tensor=2).build(), "longt5")


def test_parameters_are_made_where_they_belong_and_the_same_on_any_mesh():
    model = config("gpt").build()
    mesh = MeshConfig(data=1, fsdp=4, tensor=2).build()
    places = layout(model.specs, mesh)
    divided = quick_jit(model.init, out_shardings=places)(jax.random.key(0))
    whole = quick_jit(model.init)(jax.random.key(0))
    # The draws are the same; a fused multiplication may round otherwise.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), whole, divided)
    assert jax.tree.map(lambda x: x.sharding, divided) == places


def test_heads_that_the_mesh_would_cut_in_two_are_refused():
    model, params = params_of(config("gpt"))
    with activate(MeshConfig(data=1, fsdp=1, tensor=8).build()), pytest.raises(UserError, match="heads = 2"):
        model.logits(params, some_batch("decoder"))
