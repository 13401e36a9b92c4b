"""Models with experts: their patterns, their metrics in a step, and their export."""

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from t2t.config import dumps, loads
from t2t.errors import UserError
from t2t.export.family import canonical
from t2t.launch.convert_check import cut
from t2t.models import active_count, count
from t2t.models.config import LayerOptions
from t2t.models.families import exportable
from t2t.nn.model import ParamSpec
from t2t.nn.moe.router import Router
from t2t.objectives import CrossEntropy
from t2t.optim import AdamW, Constant, Trainable
from t2t.optim.balance import with_load_rule
from t2t.optim.trainable import trainable_specs
from t2t.plan import flops
from t2t.sharding import MeshConfig, activate
from t2t.train.state import create_state
from t2t.train.step import make_step
from tests.models.test_sharded import packed_batch
from tests.models.tiny import config, logits_of, params_of, quick_jit, some_batch

EVERY_SECOND = (LayerOptions(num_experts=0), LayerOptions())


def test_every_second_layer_is_the_pattern_of_two():
    one, other = config("moe", num_layers=5, moe_every=2), config("moe", num_layers=5, pattern=EVERY_SECOND)
    assert one.pattern_of(one.decoder) == other.pattern_of(other.decoder)
    assert canonical(one) == canonical(other)
    assert one.build().specs == other.build().specs
    layers = one.build().specs["decoder"]
    assert [name for name in ("mlp", "moe") if name in layers["layers"]["0"]] == ["mlp"]
    assert layers["layers"]["1"]["moe"]["up"].shape == (2, 4, 16, 12)
    assert "mlp" in layers["tail"]["0"]
    assert loads(dumps(one)) == one


def test_the_first_layers_of_a_model_with_experts_in_some_layers():
    settings = config("moe", num_layers=4, moe_every=2, dropout=0.0)
    _, params = params_of(settings)
    shorter, kept = cut(settings, params, "decoder", 3)
    model, batch = shorter.build(), some_batch("decoder")
    hidden = quick_jit(model.hidden)(kept, batch)
    whole, _ = cut(settings, params, "decoder", 4)
    assert hidden.shape == (2, 8, 16)
    assert "moe" in kept["decoder"]["first"]["1"]
    assert "mlp" in kept["decoder"]["layers"]
    logits = quick_jit(whole.build().logits)(cut(settings, params, "decoder", 4)[1], batch)
    np.testing.assert_allclose(logits, logits_of(settings)(batch), atol=1e-5)


def test_parameters_of_the_experts_that_are_not_chosen_are_not_active():
    settings = config("moe", num_layers=3, moe_every=2)
    experts = 3 * 4 * 16 * 12  # of the one layer that has them; two of four are chosen
    assert active_count(settings) == count(settings) - experts // 2


def test_a_step_reports_the_terms_and_microbatches_only_change_the_losses_of_the_router():
    settings = config("moe", router=Router(balance_loss=0.0, z_loss=0.1))
    model, found = settings.build(), []
    for microbatches in (1, 4):
        step = make_step(
            model, optax.sgd(0.1), CrossEntropy(), learning_rate=lambda _: jnp.float32(0.1), microbatches=microbatches
        )
        state = create_state(model, optax.sgd(0.1), 0)
        found.append(quick_jit(step)(state, packed_batch("decoder"))[1])
    whole, parts = found
    assert whole["router_z_loss"] == pytest.approx(float(parts["router_z_loss"]), rel=1e-5)
    assert whole["loss"] == pytest.approx(float(parts["loss"]), rel=1e-5)
    assert 0.0 <= float(whole["expert_load_min"]) < 1.0 < float(whole["expert_load_max"]) <= 2.0
    assert float(whole["balance_loss"]) > 1.9


BIASES = ("decoder", "layers", "moe", "bias")


@functools.cache
def stepped(microbatches=1, mesh=None):
    """Return the state and the metrics after the first step of a model whose biases balance the load."""
    model = config("deepseek").build()
    transform = AdamW(schedule=Constant(peak=0.01), clip_norm=1.0).build(model.specs)
    step = make_step(
        model, transform, CrossEntropy(), learning_rate=lambda _: jnp.float32(0.01), microbatches=microbatches
    )
    state = create_state(model, transform, 0)
    with contextlib.nullcontext() if mesh is None else activate(mesh.build()):
        return quick_jit(step)(state, packed_batch("decoder"))


def test_an_update_moves_the_bias_of_each_expert_by_the_rate_against_its_load():
    model = config("deepseek").build()
    state, metrics = stepped()
    bias = flatten_dict(state.params)[BIASES]
    params = create_state(model, optax.sgd(0.1), 0).params
    grads = quick_jit(jax.grad(lambda p: CrossEntropy().loss(model, p, packed_batch("decoder")).objective))(params)
    load = np.asarray(flatten_dict(grads)[BIASES])
    np.testing.assert_allclose(bias, 0.01 * np.sign(load.mean(axis=-1, keepdims=True) - load), atol=1e-8)
    assert bias.any()
    # The load is in no norm, and the optimizer has no state for it.
    others = [leaf for path, leaf in flatten_dict(grads).items() if path != BIASES]
    weight = CrossEntropy().weight(packed_batch("decoder"))
    assert float(metrics["grad_norm"]) == pytest.approx(float(optax.global_norm(others) / weight), rel=1e-4)
    moments = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.opt_state)]
    assert not [name for name in moments if "'bias'" in name]


def test_microbatches_and_meshes_give_the_same_biases_to_the_last_bit():
    wanted = flatten_dict(stepped()[0].params)[BIASES]
    for found in (stepped(microbatches=4), stepped(mesh=MeshConfig(data=2, fsdp=2, expert=2))):
        np.testing.assert_array_equal(flatten_dict(found[0].params)[BIASES], wanted)


LIMITED = {"expert_capacity": 0.25, "router": Router(balance_loss=0.1, z_loss=0.1), "num_heads": 8}


@functools.cache
def measured(mesh=None):
    """Return the metrics of a step of a model whose experts drop tokens."""
    model = config("moe", **LIMITED).build()
    step = make_step(model, optax.sgd(0.1), CrossEntropy(), learning_rate=lambda _: jnp.float32(0.1))
    with contextlib.nullcontext() if mesh is None else activate(mesh.build()):
        return quick_jit(step)(create_state(model, optax.sgd(0.1), 0), packed_batch("decoder"))[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh",
    [
        MeshConfig(data=2, expert=4),
        MeshConfig(data=1, fsdp=2, expert=4),
        MeshConfig(data=1, expert=4, tensor=2),
        MeshConfig(data=1, fsdp=2, expert=2, tensor=2),
    ],
    ids=str,
)
def test_the_loss_and_the_share_of_dropped_tokens_are_the_same_on_any_mesh(mesh):
    one, many = measured(), measured(mesh)
    assert 0.1 < float(one["dropped_share"]) < 0.9
    for name in ("loss", "grad_norm", "dropped_share", "balance_loss", "router_z_loss", "expert_load_max"):
        assert float(many[name]) == pytest.approx(float(one[name]), rel=1e-5), name


def test_biases_that_are_frozen_have_no_update():
    specs = config("deepseek").build().specs
    frozen = Trainable(exclude=("decoder/layers/moe/bias",)).apply(specs)
    assert BIASES in flatten_dict(trainable_specs(specs))
    assert BIASES not in flatten_dict(trainable_specs(frozen))


def test_biases_make_the_load_even():
    settings = config("deepseek", router=Router(scores="sigmoid", bias_rate=0.02, balance_loss=0.0))
    model, transform = settings.build(), optax.set_to_zero()
    step = quick_jit(
        make_step(model, with_load_rule(transform, model.specs), CrossEntropy(), learning_rate=lambda _: jnp.float32(0))
    )
    state = create_state(model, with_load_rule(transform, model.specs), 0)
    skewed = flatten_dict(state.params)
    skewed[BIASES] = jnp.tile(jnp.array([0.6, 0.0, 0.0, 0.0]), (1, 1))
    state, loads = dataclasses.replace(state, params=unflatten_dict(skewed)), []
    for _ in range(60):
        state, metrics = step(state, packed_batch("decoder"))
        loads.append(float(metrics["expert_load_max"]))
    assert loads[0] == pytest.approx(2.0, abs=0.1)  # every token chooses the first expert
    assert max(loads[-5:]) < 1.4


def test_flops_are_those_of_the_chosen_experts():
    def products(settings):
        model = settings.build()
        shapes = jax.tree.map(
            lambda spec: jax.ShapeDtypeStruct(spec.shape, spec.dtype),
            model.specs,
            is_leaf=lambda leaf: isinstance(leaf, ParamSpec),
        )
        loss = lambda params, batch: model.logits(params, batch).sum()  # noqa: E731
        return [flops.dots(f, shapes, some_batch("decoder")).total() for f in (loss, jax.grad(loss))]

    # Two experts of width 12 multiply what one MLP of width 24 does. The router is a product with four columns.
    dense = products(config("llama", d_ff=24))
    experts = products(config("moe", d_ff=12, expert_d_ff=None, shared_expert_d_ff=None))
    tokens, layers, width = 16, 2, 16
    router = 2 * tokens * layers * width * 4
    assert experts[0] - dense[0] == router
    assert experts[1] - dense[1] == 3 * router


def test_experts_that_transformers_lacks_are_refused_with_the_difference():
    settings = config("moe", shared_expert_d_ff=None)
    assert exportable(settings)[1]["model_type"] == "mixtral"
    trained = dataclasses.replace(settings.decoder, router=Router(z_loss=0.1, jitter=0.1, balance_over="layer"))
    assert exportable(dataclasses.replace(settings, decoder=trained))[1]["model_type"] == "mixtral"
    for options, message in (
        ({"shared_expert_d_ff": 8}, "shared"),
        ({"shared_expert_d_ff": None, "expert_capacity": 1.25}, "expert_capacity"),
        ({"shared_expert_d_ff": None, "router": Router(scores="sigmoid")}, "scores"),
    ):
        with pytest.raises(UserError, match=f"no model like this one.*{message}"):
            exportable(config("moe", **options))
