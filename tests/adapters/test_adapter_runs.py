"""Real, tiny trainings with an adapter: resumed, read, exported and merged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import t2t
from t2t.adapters import Adapter
from t2t.api.export import export_run
from t2t.errors import UserError
from t2t.export import read_safetensors
from t2t.export.directory import flatten
from t2t.export.huggingface import opened, short_logits
from t2t.models.families import family_of
from t2t.optim import Trainable
from t2t.sharding import MeshConfig
from t2t.train.experiment import StartFrom
from t2t.train.loop import Outcome
from tests.train.test_frozen_runs import TINY, assert_equal, losses, params, run, source  # noqa: F401

pytestmark = pytest.mark.slow

ADAPTER = Adapter(rank=4, alpha=8.0, dropout=0.1, targets=("**/{attention,mlp}/*",))


def tuned(directory, **changes):
    return replace(TINY, adapter=ADAPTER, start_from=StartFrom(run=str(directory)), **changes)


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):  # noqa: F811
    directory = tmp_path_factory.mktemp("runs") / "adapted"
    assert run(directory, tuned(source)) == Outcome(step=4, stopped=False)
    return directory


def test_the_parameters_of_the_source_are_kept_once_and_do_not_change(source, whole):  # noqa: F811
    begun, ended = params(source), params(whole)
    assert {path for path in ended if path not in begun} == {path for path in ended if "/adapter/" in path}
    assert_equal({path: ended[path] for path in begun}, begun)
    assert sorted(path.name for path in (whole / "checkpoints").iterdir()) == ["2", "4", "frozen"]


@pytest.mark.parametrize("storage", ["reference", "copy"])
def test_resumed_is_uninterrupted_bit_for_bit(storage, source, whole, tmp_path):  # noqa: F811
    trainable = Trainable(frozen_storage=storage)
    run(tmp_path / "run", tuned(source, trainable=trainable, steps=2))
    assert run(tmp_path / "run", tuned(source, trainable=trainable)) == Outcome(step=4, stopped=False)
    assert losses(tmp_path / "run") == losses(whole)
    assert_equal(params(tmp_path / "run"), params(whole))


def test_a_run_keeps_its_adapter(source, whole):  # noqa: F811
    for other in (replace(ADAPTER, rank=2), Adapter()):
        with pytest.raises(UserError, match=r"holds a run with another configuration.*adapter"):
            run(whole, replace(tuned(source), adapter=other))


def test_exports_and_the_merged_run_compute_the_same(whole, tmp_path):
    loaded = t2t.load(whole)
    wanted = short_logits(loaded.model, loaded.parameters)
    said = []
    export_run(loaded, format="huggingface", out=str(tmp_path / "hf"), say=said.append)
    assert any("the adapter is merged" in line for line in said)
    with opened(tmp_path / "hf", family_of) as theirs:
        np.testing.assert_allclose(short_logits(theirs.model, theirs.params(MeshConfig().build())), wanted, atol=1e-5)
    for merge in (False, True):
        out = tmp_path / f"merge-{merge}"
        loaded.export("safetensors", out, merge_adapter=merge)
        back = read_safetensors(out)
        assert any("/adapter/" in path for path in flatten(back.params)) != merge
        model = back.adapter.applied(back.model.build())
        np.testing.assert_allclose(short_logits(model, back.params), wanted, atol=1e-5)
    merged = loaded.merge(tmp_path / "merged")
    assert not merged.experiment.adapter.enabled
    np.testing.assert_allclose(short_logits(merged.model, merged.parameters), wanted, atol=1e-5)
    text = ["reverse words: one two"]
    assert merged.generate(text, max_length=4) == loaded.generate(text, max_length=4)
    with pytest.raises(UserError, match=r"has no adapter"):
        merged.merge(tmp_path / "again")
    with pytest.raises(UserError, match=r"--merge-adapter: .*has no adapter"):
        merged.export("safetensors", tmp_path / "none", merge_adapter=True)


def test_a_run_goes_on_from_its_adapter(whole, tmp_path):
    again = replace(TINY, adapter=ADAPTER, start_from=StartFrom(run=str(whole)), steps=1)
    run(tmp_path / "again", again)
    before, after = params(whole), params(tmp_path / "again")
    for path, value in before.items():
        assert np.array_equal(value, after[path]) == ("/adapter/" not in path), path


def test_one_batch_has_texts_with_different_adapters(source, whole, tmp_path):  # noqa: F811
    other = replace(ADAPTER, rank=2, targets=("**/{query,value}",))
    run(
        tmp_path / "other",
        replace(tuned(source), adapter=other, seed=3, trainable=Trainable(frozen_storage="reference")),
    )
    texts = ["reverse words: one two", "reverse words: big old map", "reverse words: red", "reverse words: a b"]
    names = [str(whole), None, str(tmp_path / "other"), str(whole)]
    base = t2t.load(source)
    found = base.outputs(texts, max_length=6, adapters=names)
    for name in set(names):
        alone = t2t.load(name or source).outputs(texts, max_length=6)
        for i in (i for i, one in enumerate(names) if one == name):
            assert found[i][0].text == alone[i][0].text
            assert found[i][0].score == pytest.approx(alone[i][0].score, abs=1e-4)
    assert base.generate(texts[:1], max_length=6, adapters=[None]) == base.generate(texts[:1], max_length=6)


def test_what_cannot_be_mixed_is_refused(source, whole, tmp_path):  # noqa: F811
    base = t2t.load(source)

    def refused(name, match):
        with pytest.raises(UserError, match=match):
            base.generate(["one"], adapters=[str(name)])

    refused(source, r"the run has no adapter, and only those of kind 'lora' can be mixed")
    run(tmp_path / "dora", replace(tuned(source), adapter=replace(ADAPTER, kind="dora"), steps=1))
    refused(tmp_path / "dora", r"an adapter of kind 'dora'.*Nearest: t2t infer")
    run(tmp_path / "nf4", replace(tuned(source), trainable=Trainable(quantize="nf4"), steps=1))
    refused(tmp_path / "nf4", r"in the format 'nf4', and those of .* are in 'none'. Nearest: --quantize nf4")
    run(tmp_path / "source", replace(TINY, steps=1, seed=9))
    run(tmp_path / "of another", replace(tuned(tmp_path / "source"), steps=1))
    refused(tmp_path / "of another", r"beside other parameters than those of .*differs. Nearest: t2t infer")
    with pytest.raises(UserError, match=r"has an adapter itself. Nearest: the run that it started from"):
        t2t.load(whole).generate(["one"], adapters=[str(whole)])
