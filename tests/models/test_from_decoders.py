"""An encoder-decoder from decoder-only models: its parameters, and what it computes before it is trained."""

import dataclasses

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from t2t.checkpoint import encoder_decoder_params
from t2t.errors import UserError
from t2t.models import gemma, neox
from t2t.models.families import exportable
from t2t.models.t5gemma import encoder_decoder_of
from tests.models.tiny import SIZES, config, params_of, quick_jit, row, rows, some_batch

GEMMA = {**SIZES, "head_dim": 8, "window": 3}
DECODERS = {
    "gpt": config("gpt"),
    "llama, grouped, with a window": config("llama", num_kv_heads=1, window=3, qk_norm=True, tied=False),
    "neox, parallel": neox.neox(**SIZES, max_length=24),
    "gemma2": gemma.gemma2(**GEMMA),
}


def adapted(decoder):
    """Return the model and the parameters that it gets from a decoder-only model."""
    source = params_of(decoder)[1]
    own = encoder_decoder_of(decoder)
    return own, encoder_decoder_params(source, source, own.build().specs)


@pytest.mark.parametrize("name", DECODERS)
def test_every_parameter_is_that_of_the_decoder(name):
    decoder = DECODERS[name]
    source = flatten_dict(params_of(decoder)[1], sep="/")
    own, params = adapted(decoder)
    found, specs = flatten_dict(params, sep="/"), flatten_dict(own.build().specs, sep="/")
    assert found.keys() == specs.keys()
    for path, value in found.items():
        assert value.shape == specs[path].shape
        origin = path.replace("encoder_embeddings/", "embeddings/").replace("encoder/", "decoder/")
        np.testing.assert_array_equal(value, source[origin.replace("cross_attention", "attention")])


@pytest.mark.parametrize("name", DECODERS)
def test_without_its_cross_attention_the_decoder_is_what_it_was(name):
    decoder = DECODERS[name]
    model, params = params_of(decoder)
    own, taken = adapted(decoder)
    silent = {
        path: value * 0 if "cross_attention/out" in path else value
        for path, value in flatten_dict(taken, sep="/").items()
    }
    given = some_batch("encoder_decoder")
    logits = quick_jit(own.build().logits)(unflatten_dict(silent, sep="/"), given)
    alone = quick_jit(model.logits)(params, dataclasses.replace(given, encoder=None))
    np.testing.assert_allclose(logits, alone, atol=1e-6, rtol=0)
    assert np.abs(quick_jit(own.build().logits)(taken, given) - alone).max() > 1e-3


def test_gemma_3_becomes_a_t5gemma_2_whose_decoder_without_inputs_is_what_it_was():
    decoder = gemma.gemma3(**GEMMA)
    model, params = params_of(decoder)
    own, taken = adapted(decoder)
    specs = own.build().specs
    assert jax.tree.structure(taken) == jax.tree.structure(jax.tree.map(lambda spec: 0, specs))
    assert exportable(own)[0].name == "T5Gemma 2"
    given = some_batch("encoder_decoder")
    blank = dataclasses.replace(given, encoder=rows([row([], 10), row([], 10)]))
    logits = quick_jit(own.build().logits)
    alone = quick_jit(model.logits)(params, dataclasses.replace(given, encoder=None))
    np.testing.assert_allclose(logits(taken, blank), alone, atol=1e-6, rtol=0)
    assert np.abs(logits(taken, given) - alone).max() > 1e-3


def test_gemma_2_becomes_a_t5gemma():
    own = encoder_decoder_of(gemma.gemma2(**GEMMA))
    family, options, _ = exportable(own)
    assert family.name == "T5Gemma"
    # Here the window of an encoder is that of both sides.
    assert own.encoder.pattern[0].window == 6
    assert options["encoder"]["sliding_window"] == options["decoder"]["sliding_window"] == 3


def test_of_two_decoders_of_unequal_widths_cross_attention_is_new():
    wide, narrow = config("llama", d_model=32), config("llama")
    own = encoder_decoder_of(wide, narrow)
    specs = own.build().specs
    params = encoder_decoder_params(params_of(wide)[1], params_of(narrow)[1], specs)
    found, wanted = flatten_dict(params, sep="/"), flatten_dict(specs, sep="/")
    assert {path for path in wanted if path not in found} == {path for path in wanted if "/cross_" in path}
    assert {path for path in found if path not in wanted} == set()
    for path, value in found.items():
        assert value.shape == wanted[path].shape, path
    np.testing.assert_array_equal(
        found["encoder_embeddings/token/table"], params_of(wide)[1]["embeddings"]["token"]["table"]
    )


def test_models_with_other_vocabularies_are_refused():
    with pytest.raises(UserError, match=r"vocab_size is 40 in the model of the encoder and 48 in that of the decoder"):
        encoder_decoder_of(config("llama"), config("llama", vocab_size=48))
