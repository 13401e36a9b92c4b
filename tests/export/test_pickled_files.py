"""`pytorch_model.bin`: what is read with torch, and what is said without it."""

import json
import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from t2t.errors import UserError
from t2t.export.pickled_files import PICKLED, PICKLED_INDEX, PickledFiles, open_tensors
from t2t.export.tensor_files import TensorFiles


@pytest.mark.parametrize("name", [PICKLED, PICKLED_INDEX])
def test_without_torch_the_error_says_how_to_convert(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=rf"{name}: reading a pickle needs torch .*save_pretrained") as error:
        open_tensors(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("version", ["2.5.1+cpu", "1.13.0", "unknown"])
def test_a_torch_that_could_run_code_is_not_used(tmp_path, monkeypatch, version):
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(__version__=version))
    (tmp_path / PICKLED).write_bytes(b"")
    with pytest.raises(UserError, match=r"Nearest: torch 2\.6 or newer\."):
        open_tensors(tmp_path)


def test_safetensors_come_first(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / PICKLED).write_bytes(b"")
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "model.safetensors")
    with open_tensors(tmp_path) as files:
        assert isinstance(files, TensorFiles)


class Runs:
    def __reduce__(self):
        return print, ("ran",)


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="torch is in the environment of make test-interop")


def test_tensors_of_all_types(tmp_path, torch):
    rows = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    kinds = {"float32": rows, "float64": rows.double(), "float16": rows.half(), "bfloat16": rows.bfloat16()}
    tensors = {**kinds, "turned": rows.t(), "tied": rows, "learned": torch.nn.Parameter(rows)}
    torch.save({**tensors, "whole": rows.long()}, tmp_path / PICKLED)
    with open_tensors(tmp_path) as files:
        assert isinstance(files, PickledFiles)
        assert files.names == sorted([*tensors, "whole"])
        for name, tensor in tensors.items():
            assert files.shape(name) == tuple(tensor.shape)
            np.testing.assert_array_equal(files.read(name).astype(np.float64), tensor.detach().double().numpy())
        for name in kinds:
            assert files.read(name).dtype.name == name
        assert files.equal("tied", "float32")
        assert not files.equal("turned", "float32")
        with pytest.raises(UserError, match=r"tensor whole has type int64"):
            files.read("whole")


def test_several_files_and_the_old_format(tmp_path, torch):
    one, other = torch.zeros(2), torch.ones(3)
    torch.save({"a": one}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"b": other}, tmp_path / "pytorch_model-00002-of-00002.bin", _use_new_zipfile_serialization=False)
    where = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    (tmp_path / PICKLED_INDEX).write_text(json.dumps({"weight_map": where}))
    with open_tensors(tmp_path) as files:
        np.testing.assert_array_equal(files.read("b"), np.ones(3))
    (tmp_path / PICKLED_INDEX).write_text(json.dumps({"weight_map": {**where, "c": where["b"]}}))
    with pytest.raises(UserError, match=r"00002-of-00002\.bin: tensor c is missing, but .* lists it"):
        open_tensors(tmp_path)


def test_nothing_but_tensors_is_read(tmp_path, torch, capsys):
    (tmp_path / PICKLED).write_bytes(pickle.dumps({"a": Runs()}, protocol=2))
    with pytest.raises(UserError, match="not a file of tensors alone, or damaged") as error:
        open_tensors(tmp_path)
    assert "\n" not in str(error.value)
    torch.save({"a": torch.ones(2), "b": Runs()}, tmp_path / PICKLED)
    with pytest.raises(UserError, match="not a file of tensors alone"):
        open_tensors(tmp_path)
    assert "ran" not in capsys.readouterr().out
    for content, said in (
        ({"a": 5}, "a is int, not a plain tensor"),
        ([torch.ones(2)], "expected a dict of tensors, not list"),
        ({}, "expected a dict of tensors"),
        ({"a": torch.ones(2).to_sparse()}, "a is Tensor, not a plain tensor"),
    ):
        torch.save(content, tmp_path / PICKLED)
        with pytest.raises(UserError, match=said):
            open_tensors(tmp_path)
    for damage in (b"", b"PK\x03\x04", b"x" * 100):
        (tmp_path / PICKLED).write_bytes(damage)
        with pytest.raises(UserError, match="damaged"):
            open_tensors(tmp_path)


def test_a_model_is_the_same_from_both_formats(tmp_path, torch):
    from safetensors.torch import load_file

    from t2t.export.huggingface import differing, opened
    from t2t.models.families import family_of
    from t2t.sharding import MeshConfig
    from tests.interop.cases import CASES
    from tests.interop.goldens import write_directory

    case = next(case for case in CASES if case.name == "GPT-2 as published")
    for name in ("safe", "pickled"):
        write_directory(case, tmp_path / name)
    file = tmp_path / "pickled" / "model.safetensors"
    torch.save(load_file(file), tmp_path / "pickled" / PICKLED)
    file.unlink()
    with opened(tmp_path / "safe", family_of) as safe, opened(tmp_path / "pickled", family_of) as pickled:
        assert differing(safe, pickled.params(MeshConfig().build())) == []
