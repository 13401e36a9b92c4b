"""Model families in GGUF files: what is written has llama.cpp's names, and is read back as the same model."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from t2t import config as configuration
from t2t.errors import UserError
from t2t.export.directory import flatten
from t2t.export.family import canonical
from t2t.export.gguf import gguf_directory
from t2t.export.gguf_models import architecture_of
from t2t.export.gguf_options import check_options, llama3_scaling, rope_factors
from t2t.export.gguf_writing import bound, kind_of, write_gguf
from t2t.export.huggingface import opened
from t2t.export.mapping import write_tensor
from t2t.models import llama
from t2t.models.families import exportable, family_of
from t2t.models.gemma.presets import gemma2, gemma3
from t2t.nn.model import ParamSpec
from t2t.nn.rotary import Rotary
from t2t.vocabularies import Tokenizer
from tests.test_tokenizer import byte_level

gguf = pytest.importorskip("gguf", reason="the extra [gguf] is not installed")

SIZES = {
    "num_layers": 2,
    "d_model": 64,
    "num_heads": 4,
    "num_kv_heads": 2,
    "d_ff": 96,
    "vocab_size": 320,
    "max_length": 160,
}
LLAMA3 = Rotary(base=500_000.0, scaling="llama3", factor=32.0)
MODELS = {
    "llama": lambda: llama.llama(**SIZES, rotary=LLAMA3),
    "llama linear": lambda: llama.llama(**SIZES, tied=True, rotary=Rotary(scaling="linear", factor=4.0)),
    "qwen2": lambda: llama.llama(**SIZES, tied=True, attention_biases=True, attention_output_bias=False),
    "qwen3": lambda: llama.llama(**SIZES, head_dim=32, qk_norm=True),
    "gemma2": lambda: gemma2(**SIZES, head_dim=32, window=8),
    "gemma3": lambda: gemma3(**{**SIZES, "num_layers": 7}, head_dim=32, window=8, factor=8.0),
}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    byte_level(file)
    return Tokenizer(path=str(file), eos="<|endoftext|>")


@pytest.mark.parametrize("name", MODELS)
def test_a_family_is_read_back(name, vocabulary, tmp_path):
    config = MODELS[name]()
    family, options, wanted = exportable(config)
    random = np.random.default_rng(0)
    specs = config.build().specs
    params = jax.tree.map(
        lambda spec: random.normal(size=spec.shape).astype(np.float32),
        specs,
        is_leaf=lambda leaf: isinstance(leaf, ParamSpec),
    )
    write_gguf(tmp_path / "x.gguf", params, options, wanted, vocabulary, dtype="f16", name="x")

    architecture = architecture_of(options)
    assert architecture.name == name.split()[0]
    code = next(code for code, known in gguf.MODEL_ARCH_NAMES.items() if known == architecture.name)
    names = gguf.get_tensor_name_map(code, options["num_hidden_layers"])
    expected = {names.get_name(tensor.name, try_suffixes=(".weight", ".bias")) for tensor in wanted}
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    assert {tensor.name for tensor in reader.tensors} - {"rope_freqs.weight"} == expected

    gguf_directory(tmp_path / "x.gguf", tmp_path)
    with opened(tmp_path, family_of) as source:
        assert source.family.name == family.name
        assert configuration.differences(canonical(source.config), canonical(config)) == []
    tensors, flat = load_file(tmp_path / "model.safetensors"), flatten(params)
    assert tensors.keys() == {tensor.name for tensor in wanted}
    for tensor in wanted:
        ours = np.asarray(write_tensor(tensor, flat), np.float32)
        offset = architecture.offset_of(tensor.name)
        largest = bound(ours, kind_of(ours.shape, "f16"), offset)
        assert (np.abs(ours.astype(np.float64) - tensors[tensor.name]) <= largest).all(), tensor.name
        if offset:
            stored = next(one for one in reader.tensors if one.name == architecture.name_in_gguf(tensor.name))
            np.testing.assert_allclose(stored.data, ours + 1.0, rtol=1e-6)


def test_the_factors_of_llama_3_are_llama_cpps():
    """The published factors of Llama 3.2: 1 up to a wavelength of 2,048 positions, 32 from 8,192 on, and between them in between."""
    options = exportable(llama.llama(**{**SIZES, "num_heads": 1, "num_kv_heads": 1}, head_dim=64, rotary=LLAMA3))[1]
    factors = rope_factors(options)
    wavelengths = 2 * np.pi * 500_000.0 ** (np.arange(32) / 32)
    np.testing.assert_array_equal(factors[wavelengths < 2048], 1.0)
    np.testing.assert_array_equal(factors[wavelengths > 8192], 32.0)
    smooth = (8192 / wavelengths - 1.0) / 3.0
    between = (wavelengths >= 2048) & (wavelengths <= 8192)
    np.testing.assert_allclose(factors[between], 1 / ((1 - smooth) / 32 + smooth)[between], rtol=1e-5)
    assert between.sum() == 3


@pytest.mark.parametrize("change", [lambda f: f * 1.01, lambda f: f[:-1], lambda f: f * np.nan, lambda f: f * 0])
def test_other_factors_are_refused(change):
    options = exportable(llama.llama(**SIZES, rotary=LLAMA3))[1]
    factors = rope_factors(options)
    assert llama3_scaling(factors, options, "x") == options["rope_scaling"]
    with pytest.raises(UserError, match=r"x: rope_freqs\.weight does not have the factors of Llama 3\.1 to 3\.3"):
        llama3_scaling(change(factors), options, "x")


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        (
            "llama",
            {"model_type": "mistral"},
            r"model_type is 'mistral', and only llama, qwen2, .* are supported; use con",
        ),
        ("llama", {"hidden_act": "gelu"}, r"hidden_act is 'gelu', and llama\.cpp computes llama with 'silu'"),
        (
            "llama",
            {"rope_scaling": {"rope_type": "yarn"}},
            r"rope_scaling is .*yarn.* and supported are default, linear",
        ),
        (
            "llama",
            {"rope_scaling": {"rope_type": "llama3", "low_freq_factor": 2.0}},
            r"rope_scaling\.low_freq_factor is 2\.0, and only 1\.0",
        ),
        (
            "qwen2",
            {"use_sliding_window": True},
            r"use_sliding_window is True, and llama\.cpp computes qwen2 with False",
        ),
        ("qwen3", {"attention_bias": True}, r"attention_bias is True"),
        ("qwen3", {"rope_scaling": {"rope_type": "llama3"}}, r"rope_scaling is .*supported are default, linear;"),
        (
            "gemma2",
            {"query_pre_attn_scalar": 144},
            r"query_pre_attn_scalar is 144, and llama\.cpp computes gemma2 with 32",
        ),
        ("gemma2", {"attn_logit_softcapping": None}, r"attn_logit_softcapping is None"),
        (
            "gemma3",
            {"layer_types": ["full_attention"]},
            r"layer_types is \['full_attention'\], and llama\.cpp computes",
        ),
        ("gemma3", {"rope_local_base_freq": 5000.0}, r"rope_local_base_freq is 5000\.0"),
    ],
)
def test_what_llama_cpp_does_not_compute_is_refused(name, changes, said):
    options = exportable(MODELS[name]())[1]
    check_options(options)
    with pytest.raises(UserError, match=said) as error:
        check_options({**options, **changes})
    assert "\n" not in str(error.value)


def test_the_largest_gemma_has_another_scale_of_queries():
    options = exportable(MODELS["gemma3"]())[1]
    large = {**options, "num_hidden_layers": 62, "query_pre_attn_scalar": 16}  # 64 / 4 heads
    large["layer_types"] = (["sliding_attention"] * 5 + ["full_attention"]) * 10 + ["sliding_attention"] * 2
    assert check_options(large).name == "gemma3"
    with pytest.raises(UserError, match=r"query_pre_attn_scalar is 32, and llama\.cpp computes gemma3 with 16"):
        check_options({**large, "query_pre_attn_scalar": 32})
