"""DeBERTa: disentangled positions and a convolution, packed, in blocks, on meshes, and where they are refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t.config import dumps, loads
from t2t.errors import UserError
from t2t.models.config import LayerOptions
from t2t.nn.convolution import ConvolutionConfig
from t2t.nn.disentangled import Disentangled
from t2t.sharding import MeshConfig
from tests.models.test_sharded import check_on
from tests.models.tiny import VOCAB, batch, config, loss, params_of, quick_jit, row, rows, some_batch

OTHERS = {
    "disentangled": Disentangled(buckets=None, max_distance=3, shared_projections=False, norm=False),
    "learned_positions": True,
    "types": 2,
    "embedding_size": 12,
    "embedding_norm_wide": True,
    "num_layers": 3,
}
"""All options that the published models do not use."""


def test_packed_equals_unpacked_with_other_options_and_every_parameter_has_a_gradient():
    settings = config("deberta", **OTHERS, attention="chunked", attention_block=4)
    model, params = params_of(settings)
    random = np.random.default_rng(0)
    texts = [random.integers(1, VOCAB, n) for n in (5, 7, 1, 3)]
    packed, apart = (rows(parts) for parts in ([row(texts, 18)], [row([text], 18) for text in texts]))
    packed, apart = (batch("encoder", tokens, None) for tokens in (packed, apart))
    value = quick_jit(jax.value_and_grad(lambda p, own: loss(model, p, own)))
    (together, gradients), (separate, others) = value(params, packed), value(params, apart)
    np.testing.assert_allclose(together, separate, rtol=1e-5)
    assert jax.tree.structure(gradients) == jax.tree.structure(params)
    for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(gradients), jax.tree.leaves(others), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5, err_msg=str(path))
        # The biases of keys add the same to all logits of a query.
        assert float(jnp.abs(one).max()) > 1e-7 or path[-2].key in ("key", "position_key"), path


@pytest.mark.slow
def test_a_mesh_gives_the_loss_and_gradients_of_one_device():
    check_on(MeshConfig(data=2, fsdp=2, tensor=2).build(), "deberta")


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["einsum", "chunked"])
def test_rows_may_be_divided_along_their_length(attention):
    mesh = MeshConfig(data=4, context=2).build()
    check_on(mesh, "deberta", (("attention_dropout", 0.0),), attention=attention, attention_block=4)


def test_a_convolution_reads_the_window_of_its_own_text():
    settings = config("deberta", num_layers=2)
    config_of_window = ConvolutionConfig(size=5, activation="tanh")
    first = (LayerOptions(convolution=config_of_window),)
    stack = dataclasses.replace(settings.encoder, positions="none", first=first)
    model, params = params_of(dataclasses.replace(settings, encoder=stack))
    # Attention and feed-forward layers of the first layer are silent: only the convolution mixes positions.
    silent = jax.tree.map(
        jnp.zeros_like, {name: params["encoder"]["first"]["0"][name] for name in ("attention", "mlp")}
    )
    encoder = {**params["encoder"], "first": {"0": {**params["encoder"]["first"]["0"], **silent}}}
    encoder["layers"] = jax.tree.map(jnp.zeros_like, params["encoder"]["layers"])
    encoder["layers"] |= {
        name: {"scale": jnp.ones((1, 16)), "bias": jnp.zeros((1, 16))} for name in ("attention_norm", "mlp_norm")
    }
    params = {**params, "encoder": encoder}
    random = np.random.default_rng(0)
    texts = [random.integers(1, VOCAB, n) for n in (6, 4)]
    other = [texts[0].copy(), texts[1]]
    other[0][4] = (other[0][4] + 1) % VOCAB
    run = quick_jit(model.hidden)
    outputs = [run(params, batch("encoder", row(one, 12), None)) for one in (texts, other)]
    moved = np.abs(outputs[0] - outputs[1]).max(axis=(0, 2)) > 0
    assert list(np.flatnonzero(moved)) == [2, 3, 4, 5]


def test_a_configuration_is_stored_whole():
    settings = config("deberta", **OTHERS)
    assert loads(dumps(settings)) == settings


def test_dropout_of_the_vectors_of_positions_changes_the_loss():
    own, key = some_batch("encoder"), jax.random.key(0)
    settings = config("deberta", attention_dropout=0.0, dropout=0.4)
    model, params = params_of(settings)
    losses = [float(quick_jit(lambda p, k=k: loss(model, p, own, dropout_key=k))(params)) for k in (None, key)]
    assert abs(losses[0] - losses[1]) > 1e-3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: config("gpt", positions="disentangled"),
            r'model.decoder.positions is "disentangled", which supports no step-by-step decoding.*Nearest: relative',
        ),
        (
            lambda: config("deberta", num_kv_heads=1),
            r"num_kv_heads is 1, and model.positions is 'disentangled'.*Nearest: 2",
        ),
        (
            lambda: config("bert", learned_positions=True),
            r"learned_positions is True, but model.positions is 'learned'.*Nearest: False",
        ),
        (
            lambda: config("deberta", embedding_norm_wide=True),
            r"embedding_norm_wide is True, but .*embedding_size is None.*Nearest: False",
        ),
        (lambda: config("deberta", attention="splash", dropout=0.0), r"no bias \(relative positions\)"),
        (lambda: ConvolutionConfig(size=4), r"convolution.size is 4; it must be odd. Nearest: 5"),
        (lambda: ConvolutionConfig(activation="tan"), r"unknown activation 'tan'.*Nearest: tanh"),
        (
            lambda: config("gpt", pattern=(LayerOptions(convolution=ConvolutionConfig()),)).build(),
            r"a convolution \(LayerOptions.convolution\) reads later tokens",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
