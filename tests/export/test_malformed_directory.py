"""Directories of `transformers` that are damaged, or made by somebody: read rightly or refused in one line."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from t2t.errors import UserError
from t2t.export.huggingface import opened, read_options
from t2t.export.tensor_files import INDEX, TensorFiles
from t2t.export.tokenizer_files import read_vocabulary
from t2t.export.tokenizer_writing import write_tokenizer
from t2t.models.families import exportable, family_of
from t2t.vocabularies import Bytes
from tests.damage import changed_bytes, changed_json, told
from tests.models.tiny import config
from tests.test_tokenizer import byte_level

FAMILIES = ("t5", "bert", "gpt", "llama")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A directory for each family, with a tokenizer."""
    place = tmp_path_factory.mktemp("made")
    for family in FAMILIES:
        directory = place / family
        directory.mkdir()
        _, options, wanted = exportable(config(family, vocab_size=304))
        (directory / "config.json").write_text(json.dumps({**options, "eos_token_id": 300}))
        save_file(
            {tensor.name: np.zeros(tensor.shape, np.float32) for tensor in wanted}, directory / "model.safetensors"
        )
        byte_level(directory / "tokenizer.json")
        (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    return place


@pytest.fixture
def gpt(made, tmp_path):
    """A copy of GPT-2's, to be changed."""
    return shutil.copytree(made / "gpt", tmp_path / "model")


def read(directory):
    with opened(directory, family_of) as source:
        assert source.wanted


def test_they_are_read(made):
    for family in FAMILIES:
        read(made / family)


INDICES = [
    "[]",
    "null",
    "{}",
    *(json.dumps({"weight_map": value}) for value in ([], None, 5, {}, {"a": 5}, {"a": None}, {"a": ["x"]}, {"a": ""})),
    *(
        json.dumps({"weight_map": {"a": name}})
        for name in ("../x.safetensors", "/x.safetensors", "a\\b", "https://x", "no.safetensors")
    ),
    "[" * 100_000,
]


@pytest.mark.parametrize("content", INDICES)
def test_an_index_that_is_none_is_refused_by_name(gpt, content):
    (gpt / INDEX).write_text(content)
    with pytest.raises(UserError, match=INDEX if "no.safe" not in content else "no.safetensors") as error:
        TensorFiles(gpt)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("by_link", [False, True])
def test_an_index_does_not_lead_to_other_directories(gpt, tmp_path, by_link):
    (gpt / "model.safetensors").rename(tmp_path / "outside.safetensors")
    if by_link:
        (gpt / "inside.safetensors").symlink_to(tmp_path / "outside.safetensors")
    name = "inside.safetensors" if by_link else "../outside.safetensors"
    (gpt / INDEX).write_text(json.dumps({"weight_map": {"transformer.wte.weight": name}}))
    with pytest.raises(UserError, match=r"points outside|is not the name of a file"):
        TensorFiles(gpt)


def test_tensors_come_from_the_files_that_the_index_says(gpt):
    one, other = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
    (gpt / "model.safetensors").unlink()
    save_file({"a": one, "b": one}, gpt / "one.safetensors")
    save_file({"a": other, "c": other}, gpt / "other.safetensors")
    (gpt / INDEX).write_text(
        json.dumps({"weight_map": {"a": "one.safetensors", "b": "one.safetensors", "c": "other.safetensors"}})
    )
    with TensorFiles(gpt) as files:
        assert files.names == ["a", "b", "c"]
        np.testing.assert_array_equal(files.read("a"), one)


@pytest.mark.parametrize("value", [5, ["t5"], None, {}, True])
def test_a_model_type_that_is_no_text_is_refused(gpt, value):
    (gpt / "config.json").write_text(json.dumps({"model_type": value}))
    with pytest.raises(UserError, match=r"config\.json: model_type"):
        read_options(gpt)


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "extra.txt"]
)
def test_no_file_of_the_directory_may_be_a_link_to_elsewhere(gpt, tmp_path, name):
    (tmp_path / "secret").write_text("private key")
    (gpt / name).unlink(missing_ok=True)
    (gpt / name).symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match=f"'{name}' points outside"):
        read(gpt)


def test_nor_one_that_a_run_keeps_of_an_import(gpt, tmp_path):
    (tmp_path / "secret").write_text("private key")
    (tmp_path / "out").mkdir()
    (gpt / "chat_template.jinja").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match=r"'chat_template\.jinja' points outside"):
        write_tokenizer(tmp_path / "out", Bytes(), "decoder", kept=gpt)
    assert not any((tmp_path / "out").iterdir())


def fuzz(made, data, file, change):
    """Read directories of which one file was changed."""
    family = data.draw(st.sampled_from(FAMILIES))
    directory = made / family
    path = directory / file
    whole = path.read_bytes()
    try:
        path.write_bytes(data.draw(change(whole)))
        told(lambda: read(directory))
        if file != "model.safetensors":
            options = {}
            told(lambda: options.update(read_options(directory)))
            told(lambda: len(read_vocabulary(directory, options, scratch=directory).encode("the quick")))
    finally:
        path.write_bytes(whole)


def of_json(whole):
    return changed_json(json.loads(whole))


FILES = [
    ("config.json", of_json),
    ("config.json", changed_bytes),
    ("tokenizer_config.json", of_json),
    ("tokenizer.json", of_json),
    ("tokenizer.json", changed_bytes),
    ("model.safetensors", changed_bytes),
]
CHECKS = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]}


@pytest.mark.parametrize(("file", "change"), FILES)
@settings(max_examples=25, **CHECKS)
@given(data=st.data())
def test_whatever_a_file_holds_it_is_read_or_refused_in_one_line(made, data, file, change):
    fuzz(made, data, file, change)


@pytest.mark.slow
@pytest.mark.parametrize(("file", "change"), FILES)
@settings(max_examples=1500, **CHECKS)
@given(data=st.data())
def test_and_many_more(made, data, file, change):
    fuzz(made, data, file, change)
