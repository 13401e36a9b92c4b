"""Training from Python: real, tiny trainings."""

import os
import signal
import threading
from dataclasses import replace

import jax
import numpy as np
import pytest

import t2t
from t2t import models
from t2t.checkpoint import CheckpointConfig
from t2t.data import Data
from t2t.optim import AdamW, Constant
from t2t.train.evaluation import Evaluation
from t2t.train.run import read_record

TINY = t2t.Experiment(
    model=models.t5.t5(num_layers=1, d_model=16, num_heads=2, d_ff=32, vocab_size=384),
    data=Data(task="copy_words", inputs_length=48, targets_length=24, batch_size=8, shards=2),
    optimizer=AdamW(schedule=Constant(peak=1e-2)),
    steps=4,
    log_every=1,
    checkpoint=CheckpointConfig(every=2),
    evaluation=Evaluation(tasks=("copy_words",), every=2, examples=4, batch_size=4, length=8),
)


class Seen(t2t.Callback):
    """Notes what it is told."""

    def __init__(self, stop_at=None):
        self.steps, self.evaluations, self.checkpoints, self.ends = [], [], [], []
        self.stop_at = stop_at

    def on_step(self, facts, control):
        self.steps.append((facts.step, "loss" in facts.metrics))
        return facts.step == self.stop_at

    def on_evaluation(self, facts, control):
        self.evaluations.append((facts.step, facts.results[0].task, facts.metrics["eval/loss"]))

    def on_checkpoint(self, facts, control):
        self.checkpoints.append((facts.step, (facts.path / "metrics.json").exists() or any(facts.path.iterdir())))

    def on_end(self, facts, control):
        self.ends.append((facts.step, facts.total, facts.stopped))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    seen = Seen()
    directory = tmp_path_factory.mktemp("runs") / "tiny"
    return t2t.train(TINY, dir=directory, task="reverse_words", log_every=2, progress=False, callbacks=[seen]), seen


def test_a_run_is_trained_and_returned(trained):
    run, _ = trained
    assert isinstance(run, t2t.Run)
    assert run.step == 4
    assert run.experiment == replace(
        TINY,
        log_every=2,
        data=replace(TINY.data, task="reverse_words"),
        evaluation=replace(TINY.evaluation, tasks=("reverse_words",)),
    )
    assert (run.directory / "report.html").is_file()
    assert read_record(run.directory).recipe == "t2t.train"


def test_callbacks_are_told_everything(trained):
    _, seen = trained
    assert seen.steps == [(1, False), (2, True), (3, False), (4, True)]
    assert [(step, task) for step, task, _ in seen.evaluations] == [(2, "reverse_words"), (4, "reverse_words")]
    assert seen.checkpoints == [(2, True), (4, True)]
    assert seen.ends == [(4, 4, False)]


@pytest.mark.slow
def test_a_run_is_resumed_in_its_directory(trained, tmp_path):
    run, _ = trained
    seen = Seen()
    more = run.train(steps=6, eval_every=0, progress=False, callbacks=[seen])
    assert (run.step, more.step, more.directory) == (4, 6, run.directory)
    assert [step for step, _ in seen.steps] == [5, 6]
    with pytest.raises(t2t.UserError, match="holds a run with another configuration"):
        run.train(seed=7, progress=False)


@pytest.mark.slow
def test_a_run_is_continued_in_another_directory(trained, tmp_path):
    run, _ = trained
    run = t2t.load(run.directory, step=4)
    other = t2t.train(
        run,
        dir=tmp_path / "other",
        task="copy_words",
        steps=1,
        eval_every=0,
        optimizer=AdamW(schedule=Constant(peak=1e-12)),
        progress=False,
    )
    assert (other.experiment.start_from.run, other.experiment.start_from.step) == (str(run.directory), 4)
    for one, two in zip(jax.tree.leaves(run.parameters), jax.tree.leaves(other.parameters), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


@pytest.mark.slow
def test_a_callback_stops_the_training(tmp_path):
    seen = Seen(stop_at=3)
    run = t2t.train(TINY, dir=tmp_path / "run", eval_every=0, progress=False, callbacks=[seen])
    assert run.step == 3
    assert seen.ends == [(3, 4, True)]
    assert run.train(progress=False).step == 4


@pytest.mark.slow
def test_a_signal_saves_and_ends_the_program(tmp_path):
    class Interrupt(t2t.Callback):
        def __init__(self, number):
            self.number = number

        def on_step(self, facts, control):
            if facts.step == 2:
                os.kill(os.getpid(), self.number)

    for number, raised in ((signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)):
        directory = tmp_path / number.name
        with pytest.raises(raised) as ended:
            t2t.train(TINY, dir=directory, eval_every=0, progress=False, callbacks=[Interrupt(number)])
        assert t2t.load(directory).step == 2
        if raised is SystemExit:
            assert ended.value.code == 75


@pytest.mark.slow
def test_training_in_another_thread(tmp_path, capsys):
    """As in a notebook's kernel, or a server: no signal handler can be set there. Nothing is a terminal, so progress is lines."""
    made = []
    thread = threading.Thread(target=lambda: made.append(t2t.train(TINY, dir=tmp_path / "run", steps=1, eval_every=0)))
    before = signal.getsignal(signal.SIGTERM)
    thread.start()
    thread.join()
    assert made[0].step == 1
    assert signal.getsignal(signal.SIGTERM) == before
    told = capsys.readouterr()
    assert "step 1/1 (100%)  loss" in told.err
    assert told.out == ""


@pytest.mark.parametrize(
    ("what", "options", "said"),
    [
        ("t5:quickstrat", {"dir": "x"}, "unknown recipe 't5:quickstrat'. Nearest: t5:quickstart"),
        ("t5:quickstart", {}, "t2t.train('t5:quickstart'): dir is missing"),
        (3, {"dir": "x"}, "t2t.train: 3 is not a recipe's name, an Experiment or a Run."),
        ("t5:quickstart", {"dir": "x", "step": 3}, "t2t.train: unknown option step. Nearest: start_from.step."),
        ("t5:quickstart", {"dir": "x", "steps": 3, "options": {"steps": 3}}, "t2t.train: steps is set twice"),
        ("t5:quickstart", {"dir": "x", "vocabulary": "none.model"}, "no vocabulary file none.model (vocabulary)"),
        ("t5:quickstart", {"dir": "x", "task": "revrse_words"}, "unknown task 'revrse_words'"),
        ("t5:quickstart", {"dir": "x", "imports": ["none.py"]}, "imports 'none.py': no such file."),
        (TINY, {"dir": "x", "batch_size": 7}, "batch_size 7 (--batch-size) is not divisible"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(what, options, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(t2t.UserError) as error:
        t2t.train(what, **options)
    assert said in str(error.value)
    assert not any(tmp_path.rglob("run.json"))
