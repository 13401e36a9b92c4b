"""BitNet b1.58 as it was published: its config.json, what is rounded, and what is refused."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from t2t.errors import UserError
from t2t.export.family import Options, canonical
from t2t.export.huggingface import opened, write_huggingface
from t2t.export.packed_ternary import PackedTernary
from t2t.models import bitnet, llama, preset
from t2t.models.bitnet.mapping import ONLINE, BitNet
from t2t.models.families import exportable, family_of
from t2t.nn.ternary import ternary
from t2t.sharding import MeshConfig
from t2t.vocabularies import Bytes
from tests.interop import ours
from tests.interop.cases import CASES, inputs
from tests.interop.goldens import write_directory
from tests.models.tiny import quick_jit

CASE = next(case for case in CASES if case.family == "BitNet")
PUBLISHED = {
    "architectures": ["BitNetForCausalLM"],
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "hidden_act": "relu2",
    "hidden_size": 2560,
    "initializer_range": 0.02,
    "intermediate_size": 6912,
    "max_position_embeddings": 4096,
    "model_type": "bitnet",
    "num_attention_heads": 20,
    "num_hidden_layers": 30,
    "num_key_value_heads": 5,
    "quantization_config": {"linear_class": "autobitlinear", "quant_method": "bitnet", "quantization_mode": "online"},
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 128256,
}
"""bitnet-b1.58-2B-4T-bf16."""


def test_the_published_configuration_is_that_of_the_preset():
    made = preset("bitnet:b1.58-2b-4t")
    options = exportable(made)[1]
    assert made.quantization == "ternary"
    assert options["quantization_config"] == ONLINE
    read = Options(PUBLISHED, where="config.json")
    assert canonical(BitNet().config(read, SimpleNamespace())) == canonical(made)
    read.finish()


def test_the_kernels_of_layers_are_rounded_and_nothing_else_is(tmp_path):
    write_directory(CASE, tmp_path, quantization_config=ONLINE)
    with opened(tmp_path, family_of) as source:
        model, params = source.model, source.params(MeshConfig().build())
    assert model.config.quantization == "ternary"
    layers = params["decoder"]["layers"]

    def doubled(path, leaf):
        """Round the kernels before: the product rounds them to themselves if the scale is kept."""
        if path[-1].key != "kernel":
            return leaf
        values, scale = jax.vmap(ternary)(leaf)
        return values * scale[:, None, None] / np.abs(values).mean(axis=(1, 2), keepdims=True)

    again = {**params, "decoder": {**params["decoder"], "layers": jax.tree_util.tree_map_with_path(doubled, layers)}}
    run = quick_jit(model.logits)
    own = ours.batch(CASE, inputs(CASE))
    rounded = run(params, own)
    # A difference of the last bit can round one activation to its neighbour.
    np.testing.assert_allclose(run(again, own), rounded, atol=0.1)
    floats = quick_jit(dataclasses.replace(model.config, quantization="none").build().logits)(params, own)
    assert np.abs(floats - rounded).max() > 0.2


PACKED = {
    "factor": {**ONLINE, "quantization_mode": "offline"},
    "divisor": {"quant_method": "bitnet"},
}


@pytest.mark.parametrize(("kind", "rounding"), PACKED.items(), ids=PACKED)
def test_packed_weights_compute_what_the_same_weights_unpacked_do(kind, rounding, tmp_path):
    write_directory(CASE, tmp_path / "floats", quantization_config=ONLINE)
    write_directory(CASE, tmp_path / "packed", quantization_config=rounding)
    tensors = load_file(tmp_path / "floats" / "model.safetensors")
    packed = {}
    for name, value in tensors.items():
        if not name.endswith("_proj.weight"):
            packed[name] = value
            continue
        scale = np.abs(value).mean()
        # Two bits for each weight plus one; a byte has the same place of each quarter of the rows.
        parts = np.split(np.clip(np.round(value / scale), -1, 1).astype(np.uint8) + np.uint8(1), 4)
        packed[name] = sum(part << np.uint8(2 * place) for place, part in enumerate(parts)).astype(np.uint8)
        packed[f"{name}_scale"] = np.array([scale if kind == "factor" else 1 / scale], np.float32)
    save_file(packed, tmp_path / "packed" / "model.safetensors")
    logits = []
    for folder in ("floats", "packed"):
        with opened(tmp_path / folder, family_of) as source:
            model, params = source.model, source.params(MeshConfig().build())
        kernel = params["decoder"]["layers"]["mlp"]["up"]["kernel"]
        logits.append((quick_jit(model.logits)(params, ours.batch(CASE, inputs(CASE))), *jax.vmap(ternary)(kernel)))
    (one, weights, scales), (other, found, found_scales) = logits
    np.testing.assert_array_equal(found, weights)
    np.testing.assert_allclose(found_scales, scales, rtol=1e-5)
    # A difference of the last bit can round one activation to its neighbour.
    np.testing.assert_allclose(other, one, atol=0.1)
    packed.pop("model.layers.0.mlp.up_proj.weight")
    save_file(packed, tmp_path / "packed" / "model.safetensors")
    with (
        pytest.raises(UserError, match=r"up_proj.weight_scale is not one number"),
        opened(tmp_path / "packed", family_of),
    ):
        pass


def test_an_export_of_packed_weights_has_the_same_weights_and_scales(tmp_path):
    write_directory(CASE, tmp_path / "floats", quantization_config=ONLINE)
    with opened(tmp_path / "floats", family_of) as source:
        config, params = source.config, source.params(MeshConfig().build())
    _, options, wanted = exportable(config)
    layout = PackedTernary(config, wanted, dtype="float32")
    write_huggingface(params, options, wanted, Bytes(), tmp_path / "packed", kind="decoder", layout=layout)
    tensors = load_file(tmp_path / "packed" / "model.safetensors")
    name = "model.layers.1.self_attn.k_proj.weight"
    assert (tensors[name].dtype, tensors[name].shape, tensors[f"{name}_scale"].shape) == (np.uint8, (4, 32), (1,))
    assert layout.check(tmp_path / "packed") == "14 weights with 15,360 values are packed, four in a byte"
    with opened(tmp_path / "packed", family_of) as source:
        assert canonical(source.config) == canonical(config)
        assert source.config.quantization == "ternary"
        back = source.params(MeshConfig().build())
    for kind, part in (("attention", "key"), ("mlp", "up")):
        one, other = (jax.vmap(ternary)(tree["decoder"]["layers"][kind][part]["kernel"]) for tree in (params, back))
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_allclose(one[1], other[1], rtol=1e-6)
    np.testing.assert_array_equal(back["embeddings"]["token"]["table"], params["embeddings"]["token"]["table"])


def test_what_cannot_be_packed_is_refused():
    def packed(**sizes):
        made = bitnet.bitnet(**{"num_layers": 1, "d_model": 16, "num_heads": 2, "d_ff": 24, "vocab_size": 40, **sizes})
        return PackedTernary(made, exportable(made)[2], dtype="float32")

    with pytest.raises(UserError, match=r"gate_proj.weight has 26 outputs, which is no multiple of 4"):
        packed(d_ff=26)
    with pytest.raises(UserError, match=r"quantize 'ternary' .*do not round its kernels"):
        packed(quantization="none")


def test_another_family_does_not_take_ternary_weights():
    made = llama.llama(num_layers=2, d_model=16, num_heads=2, d_ff=24, vocab_size=40, quantization="ternary")
    with pytest.raises(UserError, match=r"LLaMA has quantization: .*ternary"):
        exportable(made)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantization_config": {**ONLINE, "use_rms_norm": True}}, r"use_rms_norm is True: another norm"),
        ({"quantization_config": {"quant_method": "gptq"}}, r"quant_method is 'gptq'"),
    ],
)
def test_what_is_not_read_is_refused_by_name(options, message, tmp_path):
    write_directory(CASE, tmp_path, **options)
    with pytest.raises(UserError, match=message) as caught, opened(tmp_path, family_of):
        pass
    assert "\n" not in str(caught.value)
