"""A file of an export that has changed is noticed before it is used, whatever the format."""

import importlib.util
import json
import shutil

import pytest

from t2t.errors import UserError
from t2t.export import read_safetensors, write_safetensors, write_stablehlo
from t2t.export.huggingface import CHECKSUMS, opened, write_huggingface
from t2t.models.families import exportable, family_of
from t2t.vocabularies import Tokenizer
from tests.damage import told
from tests.export.exported_models import VOCABULARY, make
from tests.models.tiny import config, params_of
from tests.test_tokenizer import byte_level


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """An export in each format; not to be changed."""
    place = tmp_path_factory.mktemp("exports")
    model, params = make("bert")
    byte_level(place / "v.json")
    vocabulary = Tokenizer(path=str(place / "v.json"), eos="<|endoftext|>")
    write_stablehlo(model, params, VOCABULARY, place / "stablehlo", platforms=("cpu",))
    write_safetensors(model, params, vocabulary, place / "safetensors")
    settings = config("gpt", vocab_size=304)
    _, options, wanted = exportable(settings)
    write_huggingface(
        params_of(settings)[1], options, wanted, vocabulary, place / "huggingface", kind="decoder", shard_bytes=9000
    )
    return place


def load(directory):
    """Load by the loader that lies in the directory."""
    spec = importlib.util.spec_from_file_location("its_load", directory / "load.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load(directory)


def read_huggingface(directory):
    with opened(directory, family_of) as source:
        return source.wanted


READ = {"stablehlo": load, "safetensors": read_safetensors, "huggingface": read_huggingface}
USED = {
    "stablehlo": ["model.safetensors", "logits.stablehlo"],
    "safetensors": ["model.safetensors", "v.json"],
    "huggingface": ["config.json", "model-00002-of-", "model.safetensors.index.json", "tokenizer.json"],
}


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("kind", READ)
def test_an_export_that_is_whole_is_read(exports, kind):
    assert READ[kind](exports / kind)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in USED for name in USED[kind]])
@pytest.mark.parametrize("harm", [flip, lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_a_file_that_changed_is_named(exports, tmp_path, kind, name, harm):
    directory = shutil.copytree(exports / kind, tmp_path / "copy")
    (path,) = [
        found for found in directory.iterdir() if found.name.startswith(name) and found.name != name + ".index.json"
    ]
    harm(path)
    with pytest.raises((ValueError, UserError, FileNotFoundError), match=path.name):
        READ[kind](directory)


def test_a_model_card_is_the_users_to_change(exports, tmp_path):
    directory = shutil.copytree(exports / "huggingface", tmp_path / "copy")
    (directory / "README.md").write_text("my model")
    read_huggingface(directory)
    (directory / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(UserError, match=rf"chat_template\.jinja: .* delete .*{CHECKSUMS}"):
        read_huggingface(directory)
    (directory / CHECKSUMS).unlink()
    read_huggingface(directory)


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.pop("files"),
        lambda manifest: manifest.update(weights="../secret"),
        lambda manifest: manifest.update(weights=5),
        lambda manifest: manifest.update(weights=["a"]),
        lambda manifest: manifest.update(entries=5),
        lambda manifest: manifest["entries"]["logits"].update(file="/etc/passwd"),
        lambda manifest: manifest["files"].update({"model.safetensors": [1, "a"]}),
        lambda manifest: manifest["files"].update({"../secret": [0, "a"]}) or manifest.update(weights="../secret"),
    ],
)
def test_a_manifest_is_checked_by_the_loader(exports, tmp_path, change):
    directory = shutil.copytree(exports / "stablehlo", tmp_path / "copy")
    (tmp_path / "secret").write_bytes(b"")
    manifest = json.loads((directory / "manifest.json").read_text())
    change(manifest)
    (directory / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="damaged") as error:
        load(directory)
    assert "\n" not in str(error.value)


def test_a_manifest_that_is_none(exports, tmp_path):
    directory = shutil.copytree(exports / "stablehlo", tmp_path / "copy")
    for content in (b"", b"[]", b"\xff\xfe", b"[" * 100_000, b"null"):
        (directory / "manifest.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"manifest\.json: damaged"):
            load(directory)


def test_a_description_that_is_none_is_one_line(exports, tmp_path):
    directory = shutil.copytree(exports / "safetensors", tmp_path / "copy")
    whole = json.loads((directory / "config.json").read_text())
    for name in whole:
        for value in (None, 5, "x", [], {}, [1]):
            (directory / "config.json").write_text(json.dumps({**whole, name: value}))
            told(lambda: read_safetensors(directory))
