"""Models on a mesh: parameters are made divided as their logical axes say, and the logits stay the same."""

import jax
import numpy as np
import pytest

from t2t.errors import UserError
from t2t.nn.model import ParamSpec
from t2t.sharding import DEFAULT_RULES, MeshConfig, activate
from tests.models.tiny import config, loss, params_of, quick_jit, some_batch


def layout(specs, mesh):
    return jax.tree.map(
        lambda spec: DEFAULT_RULES.sharding(spec.axes, spec.shape, mesh),
        specs,
        is_leaf=lambda spec: isinstance(spec, ParamSpec),
    )


@pytest.mark.parametrize("name", ["t5", "gpt", "bert"])
def test_loss_and_gradients_on_a_mesh_equal_those_on_one_device(name):
    model, params = params_of(config(name, dropout=0.1))
    own, key = some_batch(model.config.kind, count=4), jax.random.key(0)
    mesh = MeshConfig(data=2, fsdp=2, tensor=2).build()
    places = layout(model.specs, mesh)

    def run(params):
        return loss(model, params, own, dropout_key=key)

    alone, gradients = quick_jit(jax.value_and_grad(run))(params)
    with activate(mesh):
        spread, divided = quick_jit(jax.value_and_grad(run), in_shardings=(places,), out_shardings=(None, places))(
            jax.device_put(params, places)
        )
    np.testing.assert_allclose(alone, spread, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradients, divided)
    kernel = divided["encoder" if name == "bert" else "decoder"]["layers"]["attention"]["query"]["kernel"]
    assert kernel.addressable_shards[0].data.size * 4 == kernel.size


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
