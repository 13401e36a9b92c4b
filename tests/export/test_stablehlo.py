import dataclasses
import importlib.metadata
import json
import os
import subprocess
import sys
import zipfile

import jax
import numpy as np
import pytest
from packaging.requirements import Requirement

from t2t.errors import UserError
from t2t.export import stablehlo, write_stablehlo
from t2t.export.flatbuffers_copy import FLATBUFFERS, write_flatbuffers
from t2t.models.config import LayerOptions
from t2t.models.decoder import DecoderConfig
from t2t.types import Batch, Tokens
from tests.export.exported_models import SIZE, STACK, VOCABULARY, make
from tests.models.recurrence import RecurrenceConfig

LENGTH = 6

CALL = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from load import load
entries = load(sys.argv[1])
calls = np.load(sys.argv[2])
out = {}
for key in calls.files:
    name, call, argument = key.split("|")
    out.setdefault((name, call), {})[argument] = calls[key]
results = {}
for (name, call), inputs in out.items():
    for key, value in entries[name](inputs).items():
        results[f"{name}|{call}|{key}"] = np.asarray(value)
np.savez(sys.argv[2], **results)
"""


def packages_of_jax():
    """Return the names of the distributions that installing JAX alone installs."""
    names, found = ["jax"], set()
    while names:
        name = names.pop()
        if name in found:
            continue
        found.add(name)
        for line in importlib.metadata.requires(name) or ():
            wanted = Requirement(line)
            if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
                names.append(wanted.name)
    return found


@pytest.fixture(scope="module")
def jax_alone(tmp_path_factory):
    """A folder of packages that has what installing JAX installs, and nothing else."""
    folder = tmp_path_factory.mktemp("jax-alone")
    for name in packages_of_jax():
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            (folder / top).symlink_to(distribution.locate_file(top))
    assert not list(folder.glob("flatbuffers*"))
    return folder


@pytest.fixture
def run_elsewhere(jax_alone, tmp_path):
    """Call entries in an interpreter that has JAX alone: directory, [(entry, inputs)] -> [outputs]."""

    def run(directory, calls):
        file = tmp_path / "calls.npz"
        np.savez(
            file,
            **{f"{name}|{i}|{key}": value for i, (name, inputs) in enumerate(calls) for key, value in inputs.items()},
        )
        environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"PYTHONPATH": str(jax_alone)}
        command = [sys.executable, "-S", "-c", CALL, str(directory), str(file)]
        subprocess.run(command, check=True, cwd=tmp_path, env=environment, timeout=240)
        results = np.load(file)
        outputs = [{} for _ in calls]
        for key in results.files:
            _, i, name = key.split("|")
            outputs[int(i)][name] = results[key]
        return outputs

    return run


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Each kind exported once: name -> (model, params, directory)."""
    made = {}

    def get(name):
        if name not in made:
            model, params = make(name)
            directory = tmp_path_factory.mktemp(name) / "out"
            platforms = ("cpu", "cuda", "tpu") if name == "gpt" else ("cpu",)
            write_stablehlo(
                model, params, VOCABULARY, directory, length=LENGTH, platforms=platforms, source={"step": 3}
            )
            made[name] = (model, params, directory)
        return made[name]

    return get


def tokens(ids, real=None, **more):
    ids = np.asarray(ids, np.int32)
    positions = np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32), ids.shape)
    real = np.ones_like(ids) if real is None else np.asarray(real, np.int32)
    return Tokens(ids=ids, positions=positions, segments=real, **more)


def logits(model, params, *, encoder=None, decoder=None):
    like = (decoder or encoder).ids
    batch = Batch(encoder=encoder, decoder=decoder, targets=like, weights=np.ones(like.shape))
    return jax.jit(model.logits)(params, batch)


def ids(seed, *shape):
    return np.random.default_rng(seed).integers(1, VOCABULARY.size, shape).astype(np.int32)


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_encoder_decoder_runs_with_jax_alone_at_any_size(exported, run_elsewhere):
    model, params, directory = exported("t5")
    inputs = ids(0, 3, 7)
    inputs[1, 4:] = 0
    targets = np.concatenate([np.zeros((3, 1), np.int32), ids(1, 3, 4)], axis=1)
    one, two, three = run_elsewhere(
        directory,
        [
            ("logits", {"inputs": inputs, "targets": targets}),
            ("logits", {"inputs": inputs[:1, :2], "targets": targets[:1, :1]}),
            ("greedy", {"inputs": inputs}),
        ],
    )
    close(one["logits"], logits(model, params, encoder=tokens(inputs, inputs > 0), decoder=tokens(targets)))
    close(two["logits"], logits(model, params, encoder=tokens(inputs[:1, :2]), decoder=tokens(targets[:1, :1])))

    # Each token generated is the likeliest under the model, given those before; nothing beyond the vocabulary.
    made = three["ids"]
    assert made.shape == (3, LENGTH)
    fed = np.concatenate([np.zeros((3, 1), np.int32), made[:, :-1]], axis=1)
    scores = np.array(logits(model, params, encoder=tokens(inputs, inputs > 0), decoder=tokens(fed)))
    scores[..., 0] = scores[..., VOCABULARY.size :] = -np.inf
    for row, best in zip(made, scores.argmax(-1), strict=True):
        end = list(row).index(1) + 1 if 1 in row else LENGTH
        assert list(row[:end]) == list(best[:end])
        assert not row[end:].any()


@pytest.mark.slow
def test_decoder_runs_with_jax_alone(exported, run_elsewhere):
    model, params, directory = exported("gpt")
    rows = ids(2, 2, 5)
    rows[:, 0] = 0
    short = rows[1:, :3]
    whole, both, alone, longest = run_elsewhere(
        directory,
        [
            ("logits", {"ids": rows}),
            ("greedy", {"ids": rows, "lengths": [5, 3]}),
            ("greedy", {"ids": short, "lengths": [3]}),
            ("logits", {"ids": ids(3, 1, 20)}),
        ],
    )
    close(whole["logits"], logits(model, params, decoder=tokens(rows)))
    # What stands behind a prompt's end changes nothing.
    np.testing.assert_array_equal(both["ids"][1], alone["ids"][0])
    close(both["scores"][1], alone["scores"][0])
    assert longest["logits"].shape == (1, 20, SIZE)


@pytest.mark.slow
def test_encoder_and_prefix_decoder_run_with_jax_alone(exported, run_elsewhere):
    model, params, directory = exported("bert")
    rows, types = ids(4, 2, 6), np.array([[0, 0, 0, 1, 1, 1]] * 2)
    rows[0, 3:] = 0
    (out,) = run_elsewhere(directory, [("logits", {"ids": rows, "types": types})])
    want = logits(model, params, encoder=tokens(rows, rows > 0, types=types))
    close(out["logits"][rows > 0], want[rows > 0])

    model, params, directory = exported("prefix")
    (out,) = run_elsewhere(directory, [("logits", {"ids": rows[1:], "prefix_lengths": [4]})])
    close(out["logits"], logits(model, params, decoder=tokens(rows[1:], prefix=np.array([[1, 1, 1, 1, 0, 0]]))))
    causal = logits(model, params, decoder=tokens(rows[1:], prefix=np.zeros((1, 6), np.int32)))
    assert np.abs(out["logits"] - causal).max() > 1e-2


def test_the_copy_of_flatbuffers_has_its_license_and_is_the_same_each_time(exported, tmp_path):
    written = exported("gpt")[2] / FLATBUFFERS
    write_flatbuffers(tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == written.read_bytes()
    with zipfile.ZipFile(written) as archive:
        assert "Apache License" in archive.read("flatbuffers/LICENSE").decode()
        assert b"Name: flatbuffers" in archive.read("flatbuffers/METADATA")
        assert not [name for name in archive.namelist() if not name.startswith("flatbuffers/")]


def test_manifest_and_readme_tell_what_to_call(exported):
    directory = exported("gpt")[2]
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["platforms"] == ["cpu", "cuda", "tpu"]
    assert manifest["source"] == {"step": 3}
    assert manifest["entries"]["greedy"]["inputs"]["ids"]["shape"] == ["batch", "prompt_length"]
    assert manifest["entries"]["greedy"]["at_most"] == {"prompt_length": 20 - LENGTH + 1}
    assert manifest["entries"]["logits"]["largest_difference_from_the_model"] < 1e-4
    assert (manifest["vocabulary"]["size"], manifest["vocabulary"]["eos_id"]) == (VOCABULARY.size, 1)
    code = (directory / "README.md").read_text().split("```python\n")
    environment = {**os.environ, "XLA_FLAGS": ""}
    for snippet in code[1:]:
        text = snippet.split("```")[0] + "\nprint(out['logits'].shape)"
        done = subprocess.run(
            [sys.executable, "-c", text], cwd=directory, env=environment, check=True, capture_output=True, text=True
        )
        assert done.stdout.strip() == f"(1, 5, {SIZE})"


def test_an_export_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    model, params = make("bert")
    other = make("bert")[0]
    monkeypatch.setattr(stablehlo, "_portable", lambda _: other)
    monkeypatch.setattr(other, "logits", lambda p, b: type(other).logits(other, p, b) * 1.1)
    with pytest.raises(RuntimeError, match="exported logits differs from the model by "):
        write_stablehlo(model, params, VOCABULARY, tmp_path / "out", platforms=("cpu",))
    assert os.listdir(tmp_path) == []


def test_a_model_that_needs_lengths_gets_them_fixed(tmp_path):
    model, params = make("bert")
    logits = model.logits
    # Asks what no symbolic length can answer.
    model.logits = lambda p, b: logits(p, b) * (2 if b.targets.shape[1] > 6 else 1)
    with pytest.raises(UserError, match="cannot be exported without fixed lengths, but length is missing"):
        write_stablehlo(model, params, VOCABULARY, tmp_path / "out", platforms=("cpu",))
    write_stablehlo(model, params, VOCABULARY, tmp_path / "out", platforms=("cpu",), fixed_lengths={"length": 8})
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["entries"]["logits"]["inputs"]["ids"]["shape"] == ["batch", 8]


def test_a_pattern_with_an_own_mixer_is_exported(tmp_path):
    """Its parallel scan needs a length; the program then gives the model's own logits."""
    stack = dataclasses.replace(STACK, num_layers=3, pattern=(LayerOptions(mixer=RecurrenceConfig()), LayerOptions()))
    model = DecoderConfig(decoder=stack, vocab_size=SIZE).build()
    params = jax.jit(model.init)(jax.random.key(0))
    out = tmp_path / "out"
    with pytest.raises(UserError, match="cannot be exported without fixed lengths"):
        write_stablehlo(model, params, VOCABULARY, out, platforms=("cpu",), length=LENGTH)
    write_stablehlo(
        model,
        params,
        VOCABULARY,
        out,
        platforms=("cpu",),
        length=LENGTH,
        fixed_lengths={"length": 8, "prompt_length": 8},
    )
    manifest = json.loads((out / "manifest.json").read_text())
    assert set(manifest["entries"]) == {"logits", "greedy"}
    assert manifest["entries"]["logits"]["inputs"]["ids"]["shape"] == ["batch", 8]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"platforms": ("gpu",)}, "unknown platform 'gpu'"),
        ({"length": 21}, "--length 21 cannot be generated: .* 20 positions. Nearest: 20"),
        ({"length": 0}, "--length 0 cannot be generated.* Nearest: 1"),
    ],
)
def test_bad_options_are_refused(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        write_stablehlo(*make("gpt"), VOCABULARY, tmp_path / "out", **options)
