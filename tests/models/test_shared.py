"""One set of parameters for encoder and decoder: counts, gradients, meshes, and what is refused; deep encoders with shallow decoders."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from t2t.checkpoint.tree import flatten
from t2t.errors import UserError
from t2t.models import count, preset, t5
from t2t.models.families import exportable
from t2t.sharding import MeshConfig, activate
from tests.models.test_sharded import layout, packed_batch
from tests.models.tiny import config, loss, params_of, quick_jit, some_batch


def test_the_encoders_blocks_cost_nothing_but_their_norms():
    own, shared = preset("t5:1.0-base"), preset("t5:1.0-base", shared=True)
    stack = own.encoder
    attention, feed_forward = 4 * stack.d_model * stack.num_heads * stack.head_size, 2 * stack.d_model * stack.d_ff
    assert count(own) - count(shared) == stack.num_layers * (attention + feed_forward)
    # Raffel et al. 2020, section 3.2.2: P for 2P, where cross attention, a tenth of the parameters, is not counted.
    cross, table = stack.num_layers * attention, own.vocab_size * stack.d_model
    assert (count(shared) - cross - table) / (count(own) - cross - table) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.slow
def test_both_uses_of_a_parameter_contribute_to_its_gradient():
    settings, batch = config("t5-shared"), some_batch("encoder_decoder")
    model, params = params_of(settings)
    apart = dataclasses.replace(settings, shared=False).build()
    blocks = {name: params["decoder"]["layers"][name] for name in ("attention", "mlp")}
    encoder = {**params["encoder"], "layers": {**params["encoder"]["layers"], **blocks}}
    value, together = quick_jit(jax.value_and_grad(functools.partial(loss, model)))(params, batch)
    same, separate = quick_jit(jax.value_and_grad(functools.partial(loss, apart)))(
        {**params, "encoder": encoder}, batch
    )
    np.testing.assert_allclose(value, same, rtol=1e-6)
    together, separate = flatten(together), flatten(separate)
    for path, gradient in together.items():
        expected = separate[path]
        if "/attention/" in path or "/mlp/" in path:
            other = separate[path.replace("decoder/", "encoder/")]
            assert np.abs(expected).max() > 0
            assert np.abs(other).max() > 0
            expected = expected + other
        np.testing.assert_allclose(gradient, expected, atol=1e-5, err_msg=path)
    assert len(separate) - len(together) == 4 + 3


def test_on_a_mesh_it_is_what_it_is_on_one_device():
    settings, batch = config("t5-shared"), packed_batch("encoder_decoder")
    model, params = params_of(settings)
    mesh = MeshConfig(data=2, fsdp=2, tensor=2).build()
    places = layout(model.specs, mesh)
    with activate(mesh):
        divided = jax.device_put(params, places)
        spread = quick_jit(model.logits, in_shardings=(places, None))(divided, batch)
    np.testing.assert_allclose(spread, quick_jit(model.logits)(params, batch), atol=1e-5, rtol=1e-5)
    kernel = divided["decoder"]["layers"]["attention"]["query"]["kernel"]
    assert kernel.addressable_shards[0].data.size * 4 == kernel.size


def test_stacks_that_differ_cannot_share():
    with pytest.raises(
        UserError, match=r"decoder.num_layers is 2 and model.encoder.num_layers is 12; they share parameters"
    ):
        t5.v1_1("base", num_decoder_layers=2, shared=True)


def test_transformers_has_no_such_model():
    with pytest.raises(UserError, match=r"T5: .*share them \(model.shared\)") as caught:
        exportable(config("t5-shared"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("encoder", "decoder"), [(12, 2), (2, 12)])
def test_a_stack_may_be_deeper_than_the_other(encoder, decoder):
    whole = count(preset("t5:1.1-base"))
    settings = preset("t5:1.1-base", num_layers=encoder, num_decoder_layers=decoder)
    stack = settings.encoder
    attention, norm = 4 * stack.d_model * stack.num_heads * stack.head_size, stack.d_model
    block = attention + 3 * stack.d_model * stack.d_ff + 2 * norm
    assert whole - count(settings) == (12 - encoder) * block + (12 - decoder) * (block + attention + norm)
