"""Real, tiny trainings beside quantized kernels: resumed, read, exported and merged."""

from __future__ import annotations

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

import t2t
from t2t.adapters import Adapter
from t2t.api.quantizing import quantize_run
from t2t.errors import UserError
from t2t.export.directory import flatten
from t2t.export.huggingface import short_logits
from t2t.optim import Ema, Trainable
from t2t.train.experiment import StartFrom
from t2t.train.loop import Outcome
from t2t.train.program import Program
from t2t.train.run import SavedRun
from t2t.train.state import create_state
from tests.train.test_frozen_runs import TINY, assert_equal, losses, params, run, source  # noqa: F401

pytestmark = pytest.mark.slow

ADAPTER = Adapter(rank=4, alpha=8.0, targets=("**/{attention,mlp}/*",))
NF4 = Trainable(quantize="nf4", frozen_dtype="bfloat16")


def tuned(directory, trainable=NF4, **changes):
    return replace(TINY, adapter=ADAPTER, trainable=trainable, start_from=StartFrom(run=str(directory)), **changes)


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):  # noqa: F811
    directory = tmp_path_factory.mktemp("runs") / "quantized"
    assert run(directory, tuned(source)) == Outcome(step=4, stopped=False)
    return directory


def test_the_kernels_of_the_source_are_stored_once_as_codes(source, whole):  # noqa: F811
    found = params(whole)
    wanted = SavedRun.load(source, quantize="nf4")
    kept = {path: value for path, value in found.items() if "/kernel/" in path}
    assert kept.keys() == {
        f"{kernel}/{part}"
        for kernel in wanted.model.quantized_kernels
        for part in ("codes", "scales", "scale_scales", "scale_mean")
    }
    theirs = t2t.load(source, quantize="nf4")
    flat = {path: np.asarray(leaf) for path, leaf in flatten(theirs.parameters).items()}
    assert_equal(kept, {path: flat[path] for path in kept})
    machine = json.loads((whole / "machine.json").read_text())
    plain = sum(leaf.size for leaf in params(source).values())
    assert machine["parameters"] - machine["trainable_parameters"] == plain


@pytest.mark.parametrize("storage", ["reference", "copy"])
def test_resumed_is_uninterrupted_bit_for_bit(storage, source, whole, tmp_path):  # noqa: F811
    trainable = replace(NF4, frozen_storage=storage)
    run(tmp_path / "run", tuned(source, trainable, steps=2))
    assert run(tmp_path / "run", tuned(source, trainable)) == Outcome(step=4, stopped=False)
    assert losses(tmp_path / "run") == losses(whole)
    assert_equal(params(tmp_path / "run"), params(whole))


def test_parameters_of_the_source_are_not_drawn(source, whole, tmp_path, monkeypatch):  # noqa: F811
    drawn, draw = [], Program.draw
    monkeypatch.setattr(Program, "create", None)
    monkeypatch.setattr(Program, "draw", lambda self, seed, paths: drawn.extend(paths) or draw(self, seed, paths))
    assert run(tmp_path / "run", tuned(source)) == Outcome(step=4, stopped=False)
    assert_equal(params(tmp_path / "run"), params(whole))
    assert {path.split("/")[-1] for path in drawn} == {"a", "b"}


@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_what_is_drawn_and_begun_is_what_is_created(quantize):
    experiment = replace(TINY, adapter=ADAPTER, trainable=Trainable(quantize=quantize), ema=Ema(decay=0.9))
    program = Program.of(experiment, experiment.mesh.build())
    created = program.create(3)
    make = lambda: create_state(program.model, program.transform, 3, program.specs, ema=True)  # noqa: E731
    wanted = jax.jit(make, out_shardings=program.shardings)()
    flat = flatten(wanted.params)
    drawn = program.draw(3, [path for path in flat if "/adapter/" in path])
    assert drawn.keys() < flat.keys()
    assert_equal(drawn, {path: flat[path] for path in drawn})
    begun = program.begin(3, wanted.params)
    for state in (created, begun):
        assert jax.tree.structure(state) == jax.tree.structure(wanted)
        assert_equal(dict(enumerate(jax.tree.leaves(data(state)))), dict(enumerate(jax.tree.leaves(data(wanted)))))
        assert jax.tree.map(lambda leaf: leaf.sharding, state) == jax.tree.map(lambda leaf: leaf.sharding, wanted)


def data(state):
    """Return the state with the data of its key."""
    return replace(state, key=jax.random.key_data(state.key))


def test_a_run_infers_exports_and_is_merged(source, whole, tmp_path):  # noqa: F811
    loaded = t2t.load(whole)
    text, wanted = ["reverse words: one two"], short_logits(loaded.model, loaded.parameters)
    answer = loaded.generate(text, max_length=4)
    merged = loaded.merge(tmp_path / "merged")
    assert merged.experiment.trainable.quantize == "none"
    assert merged.generate(text, max_length=4) == answer
    np.testing.assert_allclose(short_logits(merged.model, merged.parameters), wanted, atol=1e-4)
    loaded.export("huggingface", tmp_path / "hf")
    loaded.export("stablehlo", tmp_path / "programs", platforms=["cpu"])
    with pytest.raises(UserError, match=r"was trained with kernels in nf4 .*Nearest: nf4"):
        t2t.load(whole, quantize="int8")
    with pytest.raises(UserError, match=r"unknown format 'nf5'.*Nearest: nf4"):
        t2t.load(whole, quantize="nf5")
    other = t2t.load(source, quantize="int8")
    assert other.generate(text, max_length=4)
    with pytest.raises(UserError, match=r"loaded with quantize='int8'.*Nearest: quantize='none'"):
        other.export("huggingface", tmp_path / "rounded")
    t2t.load(source).export("huggingface", tmp_path / "packed", quantize="int8")
    assert (
        json.loads((tmp_path / "packed/config.json").read_text())["quantization_config"]["format"] == "pack-quantized"
    )


def test_a_run_goes_on_from_its_codes_and_in_no_other_format(whole, tmp_path):
    run(tmp_path / "again", tuned(whole, replace(NF4, frozen_storage="reference"), steps=1))
    before, after = params(whole), params(tmp_path / "again")
    for path, value in before.items():
        assert np.array_equal(value, after[path]) == ("/adapter/" not in path), path
    with pytest.raises(UserError, match=r"was trained with kernels in nf4\. Nearest: nf4"):
        run(tmp_path / "int8", tuned(whole, Trainable(quantize="int8"), steps=1))


def test_a_calibrated_run_is_a_run_with_quantized_kernels(source, tmp_path):  # noqa: F811
    loaded = t2t.load(source)
    said = []
    options = {"task": TINY.data.task, "rows": 16, "format": "int4", "say": said.append}
    directory = quantize_run(loaded, str(tmp_path / "calibrated"), params=loaded.parameters, **options)
    with pytest.raises(UserError, match=r"unknown option row\. Nearest: rows"):
        loaded.calibrate(tmp_path / "other", task=TINY.data.task, row=3)
    assert "squared error of their outputs" in said[-1]
    ours, nearest = t2t.load(directory), t2t.load(source, quantize="int4")
    assert ours.model.quantized_kernels == nearest.model.quantized_kernels
    losses = [
        one.evaluate(TINY.data.task, split="train", examples=64)[0].metrics["loss"] for one in (loaded, ours, nearest)
    ]
    assert abs(losses[1] - losses[0]) < abs(losses[2] - losses[0])
    run(tmp_path / "qlora", tuned(directory, Trainable(quantize="int4"), steps=1))
    kept = params(tmp_path / "qlora")
    before = params(directory)
    assert_equal({path: kept[path] for path in before}, before)
    with pytest.raises(UserError, match=r"kernels of .* are stored in int4.* Nearest: the run that it started from"):
        quantize_run(ours, str(tmp_path / "again"), **options)
    for changes, message in (
        ({"format": "nf4"}, r"--format nf4: .*cannot be calibrated"),
        ({"order": "output"}, r"unknown order 'output' \(--order\)\. Nearest: inputs"),
        ({"task": "no_task"}, r"no_task"),
    ):
        with pytest.raises(UserError, match=message):
            quantize_run(loaded, str(tmp_path / "other"), params=loaded.parameters, **{**options, **changes})
    assert not (tmp_path / "other").exists()
