"""Real, tiny trainings of which a part is frozen: begun, gone on with, read, refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from t2t.checkpoint import CheckpointConfig
from t2t.errors import UserError
from t2t.optim import AdamW, Constant, Trainable
from t2t.optim.paths import path_name
from t2t.train.evaluation import Evaluation
from t2t.train.experiment import Experiment, StartFrom, check
from t2t.train.loop import Outcome, train
from t2t.train.program import Program
from t2t.train.run import RunRecord, SavedRun, open_run
from tests.train.test_guard import TINY as BASE
from tests.train.test_loop import Silent

pytestmark = pytest.mark.slow

TINY = replace(
    BASE,
    optimizer=AdamW(schedule=Constant(peak=1e-2), weight_decay=0.1),
    steps=4,
    log_every=1,
    checkpoint=CheckpointConfig(every=2),
    evaluation=Evaluation(every=0),
)
COPIED = Trainable(exclude=("encoder", "embeddings"), frozen_dtype="bfloat16")
REFERRED = replace(COPIED, frozen_storage="reference")


def run(directory: Path, experiment: Experiment, observer: Silent | None = None) -> Outcome:
    from t2t.data.pipeline import task_vocabulary

    record = RunRecord(recipe="tiny", experiment=experiment, vocabulary=task_vocabulary(experiment.data))
    return train(directory, open_run(directory, record), observer or Silent())


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "source"
    run(directory, replace(TINY, steps=2, seed=5))
    return directory


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "whole"
    observer = Silent()
    assert run(directory, tuned(source, COPIED), observer) == Outcome(step=4, stopped=False)
    assert any("parameters; the others are frozen" in line for line in observer.messages)
    return directory


def tuned(source: Path, trainable: Trainable, **changes) -> Experiment:
    return replace(TINY, trainable=trainable, start_from=StartFrom(run=str(source)), **changes)


def params(directory: Path) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(SavedRun.load(directory).params())
    return {path_name(path): np.asarray(leaf) for path, leaf in leaves}


def losses(directory: Path) -> list[float]:
    found = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in found if "loss" in line]


def assert_equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for path, value in one.items():
        np.testing.assert_array_equal(value, other[path], err_msg=path)


def test_the_frozen_part_is_the_sources_rounded_and_kept_once(source, whole):
    begun, ended = params(source), params(whole)
    for path, value in ended.items():
        assert value.dtype == np.float32
        frozen = path.startswith(("encoder/", "embeddings/"))
        rounded = begun[path].astype(jax.numpy.bfloat16).astype(np.float32)
        assert np.array_equal(value, rounded) == frozen, path
    folder = whole / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["2", "4", "frozen"]
    machine = json.loads((whole / "machine.json").read_text())
    assert 0 < machine["trainable_parameters"] < machine["parameters"]


@pytest.mark.parametrize("trainable", [COPIED, REFERRED], ids=lambda trainable: trainable.frozen_storage)
def test_gone_on_with_is_uninterrupted_bit_for_bit(trainable, source, whole, tmp_path):
    run(tmp_path / "run", tuned(source, trainable, steps=2))
    assert run(tmp_path / "run", tuned(source, trainable)) == Outcome(step=4, stopped=False)
    assert losses(tmp_path / "run") == losses(whole)
    assert_equal(params(tmp_path / "run"), params(whole))


def test_a_beginning_that_was_killed_begins_again(source, whole, tmp_path):
    """What a death between the frozen part and the first step leaves is replaced."""
    directory = tmp_path / "run"
    shutil.copytree(whole, directory)
    for step in ("2", "4"):
        shutil.rmtree(directory / "checkpoints" / step)
    shutil.rmtree(directory / "checkpoints" / "frozen" / "params")
    assert run(directory, tuned(source, COPIED)) == Outcome(step=4, stopped=False)
    assert_equal(params(directory), params(whole))


def test_without_its_source_a_run_is_neither_read_nor_gone_on_with(source, tmp_path):
    moved = tmp_path / "source"
    shutil.copytree(source, moved)
    directory = tmp_path / "run"
    run(directory, tuned(moved, REFERRED, steps=2))
    shutil.rmtree(moved / "checkpoints" / "2")
    for act in (lambda: SavedRun.load(directory), lambda: run(directory, tuned(moved, REFERRED))):
        with pytest.raises(UserError, match=f"{moved}/checkpoints/2: .*missing") as raised:
            act()
        assert "\n" not in str(raised.value)


def test_a_run_does_not_change_what_is_trainable(source, whole):
    for other in (Trainable(), replace(COPIED, frozen_dtype="float32"), REFERRED):
        with pytest.raises(UserError, match=r"holds a run with another configuration.*trainable"):
            run(whole, tuned(source, other))


def test_a_reference_to_what_is_not_there_is_refused(source, tmp_path):
    with pytest.raises(UserError, match=r"needs a checkpoint that the run starts from .*Nearest: copy"):
        check(replace(TINY, trainable=REFERRED), 8)
    begin = StartFrom(run=str(source), include=("decoder/**", "embeddings/**"))
    with pytest.raises(UserError, match=r"the frozen parameter encoder/.* is not taken from.*Nearest: copy"):
        run(tmp_path / "run", replace(TINY, trainable=REFERRED, start_from=begin))
    with pytest.raises(UserError, match=r"no parameter is frozen. Nearest: copy"):
        Program.of(replace(TINY, trainable=Trainable(frozen_storage="reference")), TINY.mesh.build())
