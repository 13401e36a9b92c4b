"""Real, tiny trainings through the command line's own entry: resuming, stopping, refusing, fine-tuning."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from t2t import garbage, models
from t2t.checkpoint import CheckpointConfig, Checkpoints
from t2t.data import Data
from t2t.errors import UserError
from t2t.optim import AdamW, Constant
from t2t.train.evaluation import Evaluation, Evaluator
from t2t.train.experiment import Experiment, StartFrom
from t2t.train.loop import Outcome, train
from t2t.train.run import RunRecord, SavedRun, open_run
from t2t.vocabularies import WordPiece

TINY = Experiment(
    model=models.t5.t5(num_layers=1, d_model=16, num_heads=2, d_ff=32, vocab_size=384, dropout=0.1),
    # Packed, shuffled, mixed: all that a resumed run must find again.
    data=Data(task="tiny_mixture", inputs_length=48, targets_length=24, batch_size=8, shards=2, shuffle_buffer=50),
    optimizer=AdamW(schedule=Constant(peak=1e-2)),
    steps=8,
    log_every=2,
    checkpoint=CheckpointConfig(every=4),
    evaluation=Evaluation(tasks=("reverse_words",), every=4, examples=4, batch_size=4, length=8),
)


class Silent:
    def __init__(self):
        self.messages = []
        self.collecting = []

    def on_start(self, total, start):
        self.started = (total, start)
        self.collecting.append(gc.isenabled())

    def on_log(self, step, metrics):
        self.collecting.append(gc.isenabled())

    def on_eval(self, step, results):
        pass

    def on_message(self, text):
        self.messages.append(text)

    def on_end(self):
        pass


@pytest.fixture(scope="module", autouse=True)
def tiny_mixture():
    from t2t import tasks

    tasks.mix("tiny_mixture", {"reverse_words": 2, "sort_numbers": 1}, replace=True)


def run(directory: Path, experiment: Experiment, observer=None) -> Outcome:
    from t2t.data.pipeline import task_vocabulary

    record = RunRecord(recipe="tiny", experiment=experiment, vocabulary=task_vocabulary(experiment.data))
    return train(directory, open_run(directory, record), observer or Silent())


def arrays(directory: Path, step: int) -> dict[str, np.ndarray]:
    """Every array of a checkpoint, the optimizer's among them."""
    from t2t.train.state import abstract_state, state_shardings

    model = TINY.model.build()
    transform = TINY.optimizer.build(model.specs)
    shardings = state_shardings(model, transform, TINY.mesh.build())
    with Checkpoints(directory / "checkpoints") as checkpoints:
        state = checkpoints.restore(step, abstract_state(model, transform, shardings))
    state = state.replace(key=jax.random.key_data(state.key))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def lines(directory: Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "whole"
    assert run(directory, TINY) == Outcome(step=8, stopped=False)
    return directory


def test_a_run_directory_has_what_was_promised(whole):
    assert {"run.json", "metrics.jsonl", "machine.json", "checkpoints", "eval", "tensorboard"} <= set(os.listdir(whole))
    steps = [line["step"] for line in lines(whole) if "loss" in line]
    assert steps == [2, 4, 6, 8]
    assert [line["step"] for line in lines(whole) if "eval/loss" in line] == [4, 8]
    evaluation = json.loads((whole / "eval" / "8.json").read_text())
    assert evaluation["tasks"]["reverse_words"]["examples"] == 4
    rows = [json.loads(line) for line in (whole / "eval" / "8" / "reverse_words.jsonl").read_text().splitlines()]
    assert all({"inputs", "targets", "prediction"} <= set(row) for row in rows)


def test_resumed_is_uninterrupted_bit_for_bit(whole, tmp_path):
    halves = tmp_path / "halves"
    run(halves, replace(TINY, steps=4))
    observer = Silent()
    garbage.postpone()
    assert run(halves, TINY, observer) == Outcome(step=8, stopped=False)
    assert observer.started == (8, 4)
    assert observer.collecting == [False, True, True], "garbage is left alone at the start only"
    one, other = arrays(whole, 8), arrays(halves, 8)
    assert one.keys() == other.keys()
    for path, value in one.items():
        np.testing.assert_array_equal(value, other[path], err_msg=path)
    losses = [[line["loss"] for line in lines(d) if "loss" in line] for d in (whole, halves)]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_what_an_evaluation_fails_on_or_is_stopped_in_is_saved_and_it_is_made_up_for(whole, tmp_path, monkeypatch):
    directory, before_batch = tmp_path / "run", Evaluator._before_batch

    def broken(self):
        raise RuntimeError("my metric is broken")

    monkeypatch.setattr(Evaluator, "_before_batch", broken)
    with pytest.raises(RuntimeError, match="my metric is broken"):
        run(directory, TINY)
    with Checkpoints(directory / "checkpoints") as checkpoints:
        assert checkpoints.steps() == [4]
        assert checkpoints.metrics(4) == {}

    def stopped(self):
        if len(lines(directory)) > 4:  # two of training and one of the evaluation that was missed, two more of training
            os.kill(os.getpid(), signal.SIGTERM)
        before_batch(self)

    monkeypatch.setattr(Evaluator, "_before_batch", stopped)
    assert run(directory, TINY) == Outcome(step=8, stopped=True, asked=True)
    with Checkpoints(directory / "checkpoints") as checkpoints, Checkpoints(whole / "checkpoints") as others:
        assert checkpoints.metrics(4) == others.metrics(4)
        assert checkpoints.metrics(8) == {}
    monkeypatch.setattr(Evaluator, "_before_batch", before_batch)
    assert run(directory, TINY) == Outcome(step=8, stopped=False)
    assert [line["step"] for line in lines(directory) if "eval/loss" in line] == [4, 8]
    assert [line.get("loss") for line in lines(directory)] == [line.get("loss") for line in lines(whole)]
    one, other = arrays(whole, 8), arrays(directory, 8)
    for path, value in one.items():
        np.testing.assert_array_equal(value, other[path], err_msg=path)
    with Checkpoints(directory / "checkpoints") as checkpoints, Checkpoints(whole / "checkpoints") as others:
        assert checkpoints.metrics(8) == others.metrics(8)
        assert checkpoints.best() == others.best()


def test_a_finished_run_is_left_as_it_is(whole):
    before = (whole / "metrics.jsonl").read_text()
    assert run(whole, TINY) == Outcome(step=8, stopped=False)
    assert (whole / "metrics.jsonl").read_text() == before


def test_another_configuration_is_refused_and_what_differs_is_named(whole):
    before = (whole / "run.json").read_text()
    other = replace(TINY, seed=1, optimizer=replace(TINY.optimizer, weight_decay=0.5))
    with pytest.raises(UserError, match=r"optimizer.weight_decay: 0.1 -> 0.5; seed: 0 -> 1.*another --dir"):
        run(whole, other)
    assert (whole / "run.json").read_text() == before


def test_foreign_and_broken_directories_are_refused(whole, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and is not a run"):
        run(tmp_path, TINY)
    assert os.listdir(tmp_path) == ["notes.txt"]
    with pytest.raises(UserError, match=r"Nearest: \S*whole\."):
        SavedRun.load(whole.parent / "whol")
    with pytest.raises(UserError, match=r"has no checkpoint of step 5.*Nearest: 4"):
        SavedRun.load(whole, 5)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "run.json").write_text('{"class": ')
    with pytest.raises(UserError, match=r"run.json:1: not JSON"):
        SavedRun.load(broken)


@pytest.mark.slow
def test_fine_tuning_starts_from_another_runs_parameters(whole, tmp_path):
    observer = Silent()
    begun = replace(
        TINY, steps=1, evaluation=replace(TINY.evaluation, split=None), optimizer=AdamW(schedule=Constant(peak=1e-12))
    )
    all_of_it = replace(begun, start_from=StartFrom(run=str(whole)))
    run(tmp_path / "all", all_of_it, observer)
    assert any("starting from step 8" in message for message in observer.messages)
    part = replace(begun, start_from=StartFrom(run=str(whole), include=("encoder/**",)))
    run(tmp_path / "part", part)
    source, taken, partly = (SavedRun.load(d).params() for d in (whole, tmp_path / "all", tmp_path / "part"))
    close = jax.tree.map(lambda a, b: bool(np.allclose(a, b, atol=1e-6)), source, taken)
    assert all(jax.tree.leaves(close))
    close = jax.tree.map(lambda a, b: bool(np.allclose(a, b, atol=1e-6)), source, partly)
    assert all(jax.tree.leaves(close["encoder"]))
    assert not all(jax.tree.leaves(close["decoder"]))


def test_a_pattern_that_matches_nothing_is_refused(whole, tmp_path):
    with pytest.raises(UserError, match="encodr"):
        run(tmp_path / "r", replace(TINY, start_from=StartFrom(run=str(whole), include=("encodr/**",))))


@pytest.mark.slow
def test_a_vocabulary_that_is_not_the_checkpoints_is_refused(whole, tmp_path):
    words = tmp_path / "vocab.txt"
    words.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz0123456789"]))
    data = replace(TINY.data, vocabulary=WordPiece(path=str(words)))
    other = replace(TINY, data=data, steps=1, evaluation=replace(TINY.evaluation, split=None))
    with pytest.raises(UserError, match=r"has another vocabulary than this run, but .*table is taken"):
        run(tmp_path / "all", replace(other, start_from=StartFrom(run=str(whole))))
    layers = StartFrom(run=str(whole), include=("encoder/**", "decoder/**"))
    assert run(tmp_path / "layers", replace(other, start_from=layers)).step == 1


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_exits_75_and_the_same_command_goes_on(whole, tmp_path, number):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from dataclasses import replace\n"
        "from t2t import tasks\n"
        "from tests.train.test_loop import TINY\n"
        "tasks.mix('tiny_mixture', {'reverse_words': 2, 'sort_numbers': 1}, replace=True)\n"
        "def tiny():\n"
        "    return replace(TINY, steps=100000, log_every=1)\n"
    )
    directory = tmp_path / "run"
    words = [
        sys.executable,
        "-m",
        "t2t.launch",
        "train",
        f"{recipe}:tiny",
        "--dir",
        str(directory),
        "--eval-every",
        "0",
    ]
    # Under nohup, and in what is started there, SIGHUP is ignored: not in this program.
    process = subprocess.Popen(
        words, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)
    )
    deadline = time.monotonic() + 240
    while not (directory / "metrics.jsonl").exists() or len(lines(directory)) < 3:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(number)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 75, error
    assert "with everything saved" in error
    with Checkpoints(directory / "checkpoints") as checkpoints:
        stopped = checkpoints.latest()
    assert stopped >= 3
    again = subprocess.run(
        [*words, "--steps", str(stopped + 1), "--evaluation.examples", "2"], capture_output=True, text=True, timeout=240
    )
    assert again.returncode == 0, again.stderr
    assert f"resuming from step {stopped}" in again.stderr
    assert len({line["step"] for line in lines(directory) if "loss" in line}) == stopped + 1
