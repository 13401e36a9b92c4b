"""GGUF files that are written: as the package `gguf` reads them, and as our import does."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import t2t
from t2t.api.chat import chat_of
from t2t.errors import Failure, UserError
from t2t.export.gguf_models import Architecture
from t2t.export.gguf_writing import bound, kind_of
from t2t.launch.main import run
from t2t.models import llama
from t2t.models.families import exportable
from t2t.vocabularies import Bytes
from tests.interop.cases import weight
from tests.interop.chat import SPECIAL, TEMPLATES, say, write_directory

gguf = pytest.importorskip("gguf", reason="the extra [gguf] is not installed")

SIZES = {
    "num_layers": 2,
    "d_model": 64,
    "num_heads": 4,
    "num_kv_heads": 2,
    "d_ff": 48,
    "vocab_size": 320,
    "max_length": 160,
}


def made(place, *, tied):
    """Import a LLaMA with a chat template, with random weights."""
    write_directory("qwen", place / "theirs")
    config = llama.llama(**SIZES, tied=tied, attention_biases=not tied, norm_epsilon=1e-5)
    _, options, wanted = exportable(config)
    ids = {"eos_token_id": [302, 300, 313], "bos_token_id": 303}
    (place / "theirs" / "config.json").write_text(json.dumps({**options, **ids}))
    save_file({t.name: weight(t.name, t.shape) for t in wanted}, place / "theirs" / "model.safetensors")
    return t2t.load(place / "theirs", dir=place / "run")


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def source(request, tmp_path_factory):
    return made(tmp_path_factory.mktemp("gguf"), tied=request.param)


def permuted(weights, heads):
    """Return the rows in the order of llama.cpp's converter."""
    return weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)  # fmt: skip


@pytest.mark.parametrize("dtype", ["f16", "q8_0"])
def test_what_is_written_is_read_back(source, tmp_path, dtype, capsys):
    source.export("gguf", tmp_path / "out", dtype=dtype)
    said = capsys.readouterr().err
    assert f"as {dtype} rounds" in said
    assert ("down_proj.weight and 1 more are f16" in said) == (dtype == "q8_0")
    reader = gguf.GGUFReader(tmp_path / "out" / "model.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "llama"
    assert fields["llama.rope.dimension_count"] == 16
    assert (fields["llama.attention.head_count"], fields["llama.attention.head_count_kv"]) == (4, 2)
    assert fields["tokenizer.chat_template"] == TEMPLATES["qwen"][0]
    assert [fields[f"tokenizer.ggml.{role}_token_id"] for role in ("eos", "eot", "eom", "padding")] == [
        302,
        300,
        313,
        300,
    ]
    assert fields["tokenizer.ggml.token_type"][300:320] == [3] * len(SPECIAL) + [5] * (20 - len(SPECIAL))
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    name = "model.layers.1.self_attn.k_proj.weight"
    found = gguf.quants.dequantize(tensors["blk.1.attn_k.weight"].data, tensors["blk.1.attn_k.weight"].tensor_type)
    np.testing.assert_allclose(found, permuted(weight(name, (32, 64)), 2), atol=4e-3)
    assert tensors["blk.1.attn_k.weight"].tensor_type.name == dtype.upper()
    assert tensors["blk.0.attn_norm.weight"].tensor_type.name == "F32"
    assert ("output.weight" in tensors) != source.model.config.tied

    back = t2t.load(tmp_path / "out" / "model.gguf", dir=tmp_path / "back")
    assert back.vocabulary.end_ids == source.vocabulary.end_ids == (302, 300, 313)
    assert chat_of(back).prompt(say("user: a")) == chat_of(source).prompt(say("user: a"))
    for text in ("the quick <|im_end|> 12345", "naïve 🙂"):
        assert back.vocabulary.encode(text) == source.vocabulary.encode(text)
    largest = max(float(np.abs(np.asarray(leaf)).max()) for leaf in jax.tree.leaves(source.parameters))
    for ours, theirs in zip(*map(jax.tree.leaves, (source.parameters, back.parameters)), strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=largest * (2**-11 if dtype == "f16" else 0.6 / 127))


def test_a_file_that_differs_is_not_written(source, tmp_path, monkeypatch):
    write = Architecture.convert

    def convert(self, name, values, options, *, to_gguf):
        return values if to_gguf else write(self, name, values, options, to_gguf=to_gguf)

    monkeypatch.setattr(Architecture, "convert", convert)
    with pytest.raises(Failure, match=r"model\.gguf \(--out\): model\.layers\.0\.self_attn\..* more than f16 rounds"):
        source.export("gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    source.export("gguf", tmp_path / "out", check=False)
    assert (tmp_path / "out" / "model.gguf").exists()


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_the_bounds_are_those_of_the_types(kind):
    random = np.random.default_rng(0)
    values = (random.normal(size=(200, 64)) * 10.0 ** random.integers(-9, 4, (200, 1))).astype(np.float32)
    code = gguf.GGMLQuantizationType[kind.upper()]
    rounded = gguf.quants.dequantize(gguf.quants.quantize(values, code), code)
    difference, most = np.abs(rounded - values), bound(values, kind)
    assert (difference <= most).all()
    assert (difference > most / 2).any()  # and not much larger than needed


def test_types_of_tensors():
    assert [kind_of(shape, "q8_0") for shape in ((64,), (8, 64), (64, 48))] == ["f32", "q8_0", "f16"]


def test_other_tokenizers_and_types_are_refused(source, tmp_path):
    from t2t.export.gguf_writing import write_gguf

    _, options, wanted = exportable(source.experiment.model)
    with pytest.raises(UserError, match=r"vocabulary Bytes is not a BPE tokenizer\.json; use convert_hf_to_gguf"):
        write_gguf(tmp_path / "x", source.parameters, options, wanted, Bytes(), dtype="f16", name="x")
    with pytest.raises(UserError, match=r"unknown dtype 'float16' \(--dtype\)\. There are: f16, q8_0\."):
        source.export("gguf", tmp_path / "out", dtype="float16")


def test_the_command_writes_it(source, tmp_path, capsys):
    words = ["export", str(source.directory), "--format", "gguf", "--dtype", "q8_0", "--no-check"]
    assert run([*words, "--out", str(tmp_path / "out")]) == 0
    assert "model.gguf" in capsys.readouterr().out
