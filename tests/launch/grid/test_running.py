"""A real grid of tiny trainings: what is done stays done, what goes on from another begins with its parameters, what fails is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest

import t2t.tasks  # noqa: F401
from t2t.api.recipes import BYTES
from t2t.checkpoint import CheckpointConfig
from t2t.data import Data
from t2t.data.pipeline import batches
from t2t.errors import UserError
from t2t.launch.grid import Cell, Grid, Measure
from t2t.launch.grid.costs import Costs
from t2t.launch.grid.results import read_results
from t2t.launch.grid.running import Worker, check_same, trainings
from t2t.launch.grid.show import show
from t2t.models import DecoderConfig, StackConfig
from t2t.optim import AdamW, Constant
from t2t.train.evaluation import Evaluation
from t2t.train.experiment import Experiment
from t2t.train.guard import Guard
from t2t.train.own_code import OwnCode
from t2t.train.run import SavedRun

pytestmark = pytest.mark.slow  # real trainings, two at a time
STEPS = 4


def _experiment(peak=1e-2):
    return Experiment(
        model=DecoderConfig(
            vocab_size=BYTES, decoder=StackConfig(num_layers=1, d_model=16, num_heads=2, d_ff=16, max_length=64)
        ),
        data=Data(
            task="prompted_parity_which", inputs_length=48, targets_length=16, batch_size=8, shards=1, shuffle_buffer=10
        ),
        optimizer=AdamW(schedule=Constant(peak=peak)),
        steps=STEPS,
        log_every=3,
        checkpoint=CheckpointConfig(every=2, keep_last=1, keep_best=0),
        evaluation=Evaluation(tasks=("prompted_parity_which",), every=0, examples=8, batch_size=8),
    )


def _grid(**changes):
    measured = {"zero-shot": ("prompted_parity_which/rank_accuracy",)}
    first = Cell(architecture="decoder", objective="LM", experiment=_experiment(), measured=measured)
    tuned = replace(first, stage="fine-tuned", after=first.name)
    measures = (Measure(name="zero-shot", about="parity", chance=0.5),)
    return Grid(**{"cells": (first, tuned), "measures": measures, "seeds": (0, 1), **changes})


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    directory = tmp_path_factory.mktemp("grid")
    said: list[str] = []
    worker = Worker(_grid(), directory, "grid:test", OwnCode(), said.append)
    assert worker.run() is False
    assert worker.failures() == []
    return directory, said


def test_every_cell_is_trained_with_every_seed_and_measured(done):
    directory, _ = done
    results = read_results(_grid(), directory)
    assert [result.seeds for result in results] == [2, 2]
    for result in results:
        assert 0.0 <= result.values["zero-shot"].mean <= 1.0


def test_seeds_and_stages_differ_and_fine_tuning_begins_with_what_was_pretrained(done):
    directory, said = done
    params = [SavedRun.load(training.directory).params() for training in trainings(_grid(), directory)]
    tables = [np.asarray(found["embeddings"]["token"]["table"]) for found in params]
    for i in range(4):
        for j in range(i):
            assert not np.allclose(tables[i], tables[j])
    # Four more steps from where pretraining ended are nearer to it than to another seed's beginning.
    assert np.abs(tables[1] - tables[0]).mean() < np.abs(tables[1] - tables[2]).mean()
    assert any("starting from step 4" in line and "decoder_lm.pretrained/seed-1" in line for line in said)


def test_costs_are_those_of_the_very_batches(done):
    directory, _ = done
    (training, *_) = trainings(_grid(), directory)
    costs = Costs.of(training.cell.experiment, training.directory)
    data = replace(training.cell.experiment.data, seed=0)
    stream = batches(data, "decoder")
    tokens = sum(int((next(stream).decoder.segments > 0).sum()) for _ in range(STEPS))
    stream.close()
    assert costs.tokens == pytest.approx(tokens, rel=1e-6)
    assert costs.places == STEPS * 8 * 64
    twice = Costs.of(replace(training.cell.experiment, steps=2 * STEPS), training.directory)
    assert twice.flops == 2 * costs.flops > 0


def test_what_is_done_is_not_done_again(done):
    directory, _ = done
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*.json")}
    said: list[str] = []
    assert Worker(_grid(), directory, "grid:test", OwnCode(), said.append).run() is False
    assert said == []
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*.json")} == before


def test_a_grid_of_another_configuration_is_refused(done):
    directory, _ = done
    check_same(_grid(), directory)
    cell, tuned = _grid().cells
    other = replace(cell, experiment=_experiment(peak=1e-3))
    with pytest.raises(UserError, match=r"decoder_lm.pretrained differs in optimizer.schedule.peak: 0.01 -> 0.001"):
        check_same(_grid(cells=(other, tuned)), directory)


def test_the_table_and_the_picture_are_written(done, capsys):
    directory, _ = done
    show(_grid(), directory)
    assert "4 of 4 trainings done" in capsys.readouterr().out
    assert (directory / "table.md").read_text().startswith("|  | zero-shot, pretrained | zero-shot, fine-tuned |")
    assert (directory / "grid.png").read_bytes().startswith(b"\x89PNG")


def test_a_failure_is_told_kept_and_stops_only_what_goes_on_from_it(done):
    directory, _ = done
    cell, tuned = _grid().cells
    bad = replace(cell, objective="bad", experiment=_experiment(peak=1000.0))
    bad = replace(bad, experiment=replace(bad.experiment, guard=Guard(spike="stop", spike_factor=1.01, window=1)))
    after = replace(tuned, objective="bad", after=bad.name)
    said: list[str] = []
    grid = _grid(cells=(bad, after, cell), seeds=(0,))
    worker = Worker(grid, directory, "grid:test", OwnCode(), said.append)
    assert worker.run() is False
    assert [training.cell.objective for training in worker.failures()] == ["bad"]
    assert [training.done for training in trainings(grid, directory)] == [False, False, True]
    (note,) = directory.rglob("failure.txt")
    assert "Traceback" in note.read_text()
    assert any("failed, see" in line for line in said)


@pytest.mark.faults
def test_workers_share_the_cells_and_stop_and_go_on(tmp_path):
    """Two workers, asked to stop in the midst of it, then killed, then left to end: every cell is there once and whole."""
    recipe = tmp_path / "mine.py"
    recipe.write_text(
        textwrap.dedent(
            f"""
            import sys
            sys.path.insert(0, {str(os.path.dirname(__file__))!r})
            from dataclasses import replace
            from test_running import _grid
            def grid():
                made = _grid()
                longer = [replace(c, experiment=replace(c.experiment, steps=100, log_every=20)) for c in made.cells]
                return replace(made, cells=tuple(longer))
            """
        )
    )
    words = [
        sys.executable,
        "-m",
        "t2t.launch",
        "grid",
        f"{recipe}:grid",
        "--dir",
        str(tmp_path / "grid"),
        "--workers",
        "2",
    ]

    def start():
        return subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=os.getcwd())

    process = start()
    for line in process.stderr:
        if "[" in line:  # the first cell has begun
            break
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=300)
    assert process.returncode == 75
    process = start()
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert "4 of 4 trainings done" in out
    began = [line for line in err.splitlines() if line.startswith("[") and line.endswith(("seed 0", "seed 1"))]
    assert len(began) == len(set(began)), "no cell was taken twice"
