"""What `transformers` made of each family's small models, without it: logits in, tensors out, and what is refused."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from t2t.errors import UserError
from t2t.export.family import canonical
from t2t.export.huggingface import differing, opened, write_huggingface
from t2t.models.families import exportable, family_of
from t2t.sharding import MeshConfig
from t2t.vocabularies import Bytes
from tests.interop import ours
from tests.interop.cases import CASES, inputs
from tests.interop.goldens import FOLDER, file_name, kept, write_directory
from tests.models.tiny import quick_jit

BY_NAME = {case.name: case for case in CASES}
LLAMA = BY_NAME["LLaMA 3: grouped, llama3 positions"]
GPT = BY_NAME["GPT-2 as published"]
BERT = BY_NAME["BERT masked LM"]


def test_there_is_a_golden_for_each_case():
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(map(file_name, CASES))


@pytest.mark.parametrize("name", BY_NAME)
def test_logits_are_those_of_transformers_and_the_export_is_what_was_read(name, tmp_path):
    case = BY_NAME[name]
    found = write_directory(case, tmp_path / "theirs")
    with opened(tmp_path / "theirs", family_of) as source:
        params = source.params(MeshConfig().build())
        assert differing(source, params) == []
        read, names = source.config, set(source.files.names)
        if case.base:  # transformers saves a base model without the prefix
            names = {name if name.startswith(source.family.prefix) else source.family.prefix + name for name in names}
    given = inputs(case)
    # The least optimised program: compiled in a fraction of the time.
    logits = ours.logits(case, read.build(), params, given, quick_jit)
    np.testing.assert_allclose(kept(case, ours.real(case, given, logits)), found["logits"], atol=1e-4)

    _, options, wanted = exportable(read)
    write_huggingface(params, options, wanted, Bytes(), tmp_path / "ours", kind=case.kind, shard_bytes=20_000)
    with opened(tmp_path / "ours", family_of) as back:
        assert canonical(back.config) == canonical(read)
        if case.exported:
            jax.tree.map(np.testing.assert_array_equal, back.params(MeshConfig().build()), params)
        else:
            assert set(back.files.names) <= names
            for tensor in back.wanted:
                assert back.read(tensor.name).tobytes() == weight_of(found, tensor, names, tmp_path).tobytes(), (
                    tensor.name
                )
    written = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert written["model_type"] == (case.exported or found["config"]["model_type"])
    if not case.exported:
        assert written["architectures"] == found["config"]["architectures"]


def weight_of(found, tensor, names, folder):
    """Return the tensor as the first directory has it."""
    there = next(name for name in (tensor.name, *tensor.aliases) if name in names)
    tensors = load_file(folder / "theirs" / "model.safetensors")
    return tensors[there] if there in tensors else tensors[there.partition(".")[2]]


def test_large_parameters_are_filled_by_layers(tmp_path, monkeypatch):
    write_directory(LLAMA, tmp_path)
    with opened(tmp_path, family_of) as source:
        whole = source.params(MeshConfig().build())
        monkeypatch.setattr("t2t.export.placing.LARGE", 1)
        parts = source.params(MeshConfig().build())
    jax.tree.map(np.testing.assert_array_equal, whole, parts)


def test_a_base_model_lacks_the_prefix(tmp_path):
    write_directory(GPT, tmp_path / "whole")
    write_directory(GPT, tmp_path / "base", prefix="transformer.")
    params = []
    for name in ("whole", "base"):
        with opened(tmp_path / name, family_of) as source:
            params.append(source.params(MeshConfig().build()))
    jax.tree.map(np.testing.assert_array_equal, *params)


def test_without_a_masked_lm_head_the_encoder_comes_alone_and_goes_as_it_came(tmp_path):
    write_directory(BERT, tmp_path, prefix="bert.", architectures=["BertModel"])
    tensors = load_file(tmp_path / "model.safetensors")
    tensors = {name: value for name, value in tensors.items() if not name.startswith("cls.")}
    save_file({**tensors, "pooler.dense.weight": np.ones((2, 2), np.float32)}, tmp_path / "model.safetensors")
    with opened(tmp_path, family_of) as source:
        assert list(source.left_out) == ["pooler.dense.weight"]
        assert "transform" not in source.params(MeshConfig().build())
    assert exportable(source.config)[1]["architectures"] == ["BertModel"]


def changed_tensors(directory, change):
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), r"model.norm.weight is missing from the weights"),
        (lambda t: t.update(extra=np.ones(3, np.float32)), r"the model has no parameter for extra"),
        (
            lambda t: t.update({"model.norm.weight": np.ones(3, np.float32)}),
            r"model.norm.weight has shape 3; the configuration expects 32",
        ),
        (lambda t: t.update({"model.norm.weight": np.ones(32, np.int8)}), r"model.norm.weight has type I8"),
    ],
)
def test_tensors_missing_left_over_or_wrong_are_named(change, message, tmp_path):
    write_directory(LLAMA, tmp_path)
    changed_tensors(tmp_path, change)
    with pytest.raises(UserError, match=message) as caught, opened(tmp_path, family_of) as source:
        source.params(MeshConfig().build())
    assert "\n" not in str(caught.value)


def test_copies_of_a_tied_tensor_must_be_equal(tmp_path):
    write_directory(GPT, tmp_path)
    changed_tensors(tmp_path, lambda t: t.update({"lm_head.weight": t["transformer.wte.weight"].copy()}))
    with opened(tmp_path, family_of) as source:
        source.params(MeshConfig().build())
    changed_tensors(tmp_path, lambda t: t.update({"lm_head.weight": t["transformer.wte.weight"] + 1}))
    with pytest.raises(UserError, match=r"wte.weight and lm_head.weight differ"), opened(tmp_path, family_of) as source:
        source.params(MeshConfig().build())


@pytest.mark.parametrize(
    ("case", "options", "message"),
    [
        (LLAMA, {"model_type": "lama"}, r"unknown model_type 'lama'.*Nearest: llama"),
        (LLAMA, {"rope_flavour": "odd"}, r"unknown option rope_flavour = 'odd'.*--accept-option rope_flavour"),
        (LLAMA, {"hidden_act": "mish"}, r"hidden_act is 'mish'"),
        (LLAMA, {"rope_interleaved": True}, r"rope_interleaved is True"),
        (LLAMA, {"rope_parameters": {"rope_type": "yam", "factor": 2.0}}, r"rope_scaling is 'yam'.*Nearest: .*yarn"),
        (LLAMA, {"hidden_size": None}, r"option 'hidden_size' is missing"),
        (GPT, {"scale_attn_by_inverse_layer_idx": True}, r"scale_attn_by_inverse_layer_idx is True"),
        (GPT, {"embd_pdrop": 0.5}, r"embd_pdrop is 0.5"),
        (BERT, {"position_embedding_type": "relative_key"}, r"position_embedding_type is 'relative_key'"),
        (BERT, {"is_decoder": True}, r"is_decoder is True"),
        (BY_NAME["ALBERT one group"], {"inner_group_num": 2}, r"inner_group_num is 2"),
        (BY_NAME["T5 1.0"], {"feed_forward_proj": "gated-mish"}, r"feed_forward_proj is 'mish'"),
    ],
)
def test_options_that_cannot_be_honoured_are_refused_by_name(case, options, message, tmp_path):
    write_directory(case, tmp_path, **options)
    with pytest.raises(UserError, match=message) as caught, opened(tmp_path, family_of):
        pass
    assert "\n" not in str(caught.value)


def test_an_option_may_be_accepted(tmp_path):
    write_directory(LLAMA, tmp_path, rope_flavour="odd")
    with opened(tmp_path, family_of, accepted=["rope_flavour"]):
        pass


def test_pickles_of_other_names_are_not_read(tmp_path):
    write_directory(LLAMA, tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "training_args.bin")
    with pytest.raises(UserError, match=r"training_args.bin is a pickle"), opened(tmp_path, family_of):
        pass


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("gpt:1", "norm_place"),
        ("prefix", "mask"),
    ],
)
def test_models_that_transformers_lacks_are_refused_with_the_choice(model, message):
    from t2t.models import preset

    config = preset("gpt:2-small", mask="prefix") if model == "prefix" else preset(model, final_norm=True)
    with pytest.raises(UserError, match=message):
        exportable(config)
