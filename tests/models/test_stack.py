"""The scan over layers, rematerialisation, precision and dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t.models.block import Block
from t2t.nn.mixers import BuildOptions, Context
from t2t.nn.parameters import Definition
from tests.models.tiny import batch, config, loss, params_of, quick_jit, row, some_batch


@pytest.mark.parametrize("name", ["gpt", "gpt-1"])
def test_the_scan_equals_a_loop_over_blocks(name):
    settings = config(name, num_layers=3)
    model, params = params_of(settings)
    own = batch("decoder", None, row([np.arange(1, 8), np.arange(3, 7)], 12))
    tokens = own.decoder
    table = params["embeddings"]
    x = table["token"]["table"][tokens.ids] + table["position"]["table"][tokens.positions]
    (layer,) = settings.pattern_of(settings.decoder)
    one = Block(layer, BuildOptions(width=16, kernel_init=settings.decoder.kernel_init))
    context, block = one.prepared(Context(segments=tokens.segments), {}), Definition(one)
    for layer in range(3):
        bound = block.bind(jax.tree.map(lambda p, i=layer: p[i], params["decoder"]["layers"]))
        x, _ = bound(x, context)
    if settings.decoder.final_norm:
        final = params["decoder"]["final_norm"]
        x = x - x.mean(-1, keepdims=True)
        x = x / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5) * final["scale"] + final["bias"]
    np.testing.assert_allclose(quick_jit(model.hidden)(params, own), x, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", [pytest.param("t5", marks=pytest.mark.slow), "bert"])
def test_remat_changes_no_gradient_with_dropout_too(name):
    own, key = some_batch(config(name).kind), jax.random.key(5)

    def gradients(remat):
        model, _ = params_of(config(name, remat=remat, dropout=0.2))
        _, params = params_of(config(name))
        return quick_jit(jax.grad(lambda p: loss(model, p, own, dropout_key=key)))(params)

    found = {remat: gradients(remat) for remat in ("none", "full", "dots", "dots_no_batch")}
    for remat in ("full", "dots", "dots_no_batch"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found["none"], found[remat])


def test_remat_policies_save_less_and_less():
    def temporary(remat):
        settings = config("t5", remat=remat, num_layers=8, d_model=32, d_ff=256)
        model = settings.build()
        shapes = jax.eval_shape(model.init, jax.random.key(0))
        own = some_batch("encoder_decoder", count=4, length=64)
        compiled = quick_jit(jax.grad(lambda p: loss(model, p, own))).lower(shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary("full") < temporary("none") / 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t5", "t5-1.0", "gpt", "bert"])
def test_bfloat16_is_close_and_keeps_parameters_and_logits_in_float32(name):
    model, params = params_of(config(name))
    low, _ = params_of(config(name, dtype="bfloat16"))
    own = some_batch(model.config.kind)
    exact, rough = quick_jit(model.logits)(params, own), quick_jit(low.logits)(params, own)
    assert rough.dtype == jnp.float32
    assert jax.eval_shape(low.hidden, params, own).dtype == jnp.bfloat16
    assert 0.0 < float(jnp.abs(exact - rough).max()) < 0.05 * float(jnp.abs(exact).max())
    gradients = jax.eval_shape(jax.grad(lambda p: loss(low, p, own)), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", ["t5", "gpt", "bert"])
def test_dropout_only_with_a_key_and_the_same_for_the_same(name):
    model, params = params_of(config(name, dropout=0.3))
    plain, _ = params_of(config(name))
    own = some_batch(model.config.kind)
    run = quick_jit(lambda key: model.logits(params, own, dropout_key=key))
    alone = quick_jit(model.logits)(params, own)
    np.testing.assert_array_equal(alone, quick_jit(plain.logits)(params, own))
    np.testing.assert_array_equal(run(jax.random.key(0)), run(jax.random.key(0)))
    assert not np.allclose(run(jax.random.key(0)), run(jax.random.key(1)))
    assert not np.allclose(run(jax.random.key(0)), alone)


def test_layers_draw_different_dropout():
    # Two layers that each add 1 everywhere, half of it dropped and the rest doubled: 2 only where one layer dropped and the other did not.
    model, params = params_of(config("gpt", dropout=0.5, final_norm=False))
    params = jax.tree.map(jnp.zeros_like, params)
    params["decoder"]["layers"]["attention"]["out"]["bias"] += 1.0
    hidden = quick_jit(model.hidden)(params, some_batch("decoder"), dropout_key=jax.random.key(0))
    values, counts = np.unique(hidden, return_counts=True)
    assert values.tolist() == [0.0, 2.0, 4.0]
    assert counts[1] == pytest.approx(hidden.size / 2, rel=0.25)


@pytest.mark.parametrize("name", ["t5", "t5-1.0", "gpt", "gpt-1", "bert"])
def test_every_parameter_has_a_gradient(name):
    model, params = params_of(config(name))
    own = some_batch(model.config.kind)
    gradients = quick_jit(jax.grad(lambda p: loss(model, p, own)))(params)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        # The bias of a key adds the same to all logits of a query, and softmax takes it away again.
        if "'key'" not in jax.tree_util.keystr(path) or "'bias'" not in jax.tree_util.keystr(path):
            assert float(jnp.abs(gradient).max()) > 1e-7, path


def test_initial_logits_of_t5_are_of_a_sane_size():
    model = config("t5-1.0", d_model=64, d_ff=128).build()
    params = quick_jit(model.init)(jax.random.key(0))
    logits = quick_jit(model.logits)(params, some_batch("encoder_decoder"))
    assert 0.3 < float(jnp.std(logits)) < 3.0
