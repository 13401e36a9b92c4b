import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t.errors import UserError
from t2t.export import read_safetensors, write_safetensors
from t2t.export.directory import flatten
from tests.export.exported_models import VOCABULARY, make


def test_reading_back_gives_the_same_bits(tmp_path):
    model, params = make("bert")
    flat = flatten(params)
    some = next(iter(flat))
    # Transposed in memory, and half precision: both must come back as they are.
    params = jax.tree.map(
        lambda x: x.astype(jnp.bfloat16) if x.ndim == 1 else jnp.swapaxes(jnp.swapaxes(x, 0, 1).copy(), 0, 1), params
    )
    write_safetensors(model, params, VOCABULARY, tmp_path / "out", source={"step": 5})
    back = read_safetensors(tmp_path / "out")
    assert back.model == model.config
    assert back.vocabulary == VOCABULARY
    assert some in flatten(back.params)
    assert {str(x.dtype) for x in jax.tree.leaves(back.params)} == {"float32", "bfloat16"}
    assert jax.tree.structure(back.params) == jax.tree.structure(params)
    for got, want in zip(jax.tree.leaves(back.params), jax.tree.leaves(params), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, np.asarray(want))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["source"] == {"step": 5}


def test_a_full_directory_is_left_alone_unless_told(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    model, params = make("bert")
    with pytest.raises(UserError, match=r"out \(--out\) is not empty"):
        write_safetensors(model, params, VOCABULARY, out)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "thesis.txt"]
    write_safetensors(model, params, VOCABULARY, out, overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.safetensors", "thesis.txt"]
    with pytest.raises(UserError, match="is a file, not a directory"):
        write_safetensors(model, params, VOCABULARY, out / "thesis.txt", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_damaged_or_foreign_directories_are_told(tmp_path):
    model, params = make("bert")
    out = write_safetensors(model, params, VOCABULARY, tmp_path / "out")
    with pytest.raises(UserError, match="not a safetensors export"):
        read_safetensors(tmp_path)
    data = json.loads((out / "config.json").read_text())
    data["model"]["encoder"]["mlp"] = 64
    (out / "config.json").write_text(json.dumps(data))
    with pytest.raises(
        UserError, match=r"model.safetensors: parameter \S+ has shape \[.*\]; the model .* expects \[.*\]"
    ):
        read_safetensors(out)
    whole = (out / "model.safetensors").read_bytes()
    (out / "model.safetensors").write_bytes(whole[:-10])
    with pytest.raises(UserError, match=r"model.safetensors: the file has changed since it was written"):
        read_safetensors(out)
    del data["files"]  # an earlier version wrote none
    (out / "config.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match=r"model.safetensors: damaged"):
        read_safetensors(out)


def test_importing_export_loads_no_tensorflow():
    code = "import sys, t2t.export; assert not {'tensorflow', 'seqio'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
