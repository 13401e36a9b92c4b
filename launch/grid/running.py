"""Train a grid's cells. Each training has its own run directory: finished trainings are kept, interrupted ones resume."""

from __future__ import annotations

import contextlib
import fcntl
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import jax

from t2t import config
from t2t.api.assembly import run_training
from t2t.errors import UserError
from t2t.launch.grid.costs import Costs
from t2t.launch.grid.decoding import decoding_costs
from t2t.launch.grid.design import Cell, Grid
from t2t.launch.grid.lines import Lines
from t2t.train.claim import Claim
from t2t.train.experiment import Experiment
from t2t.train.own_code import OwnCode
from t2t.train.run import read_record
from t2t.train.stop import StopOnSignal
from t2t.vocabularies import SentencePiece

WAIT = 1.0
"""Seconds between two checks for a cell that can start."""
FAILURE = "failure.txt"
DONE = "done.json"
VOCABULARY = "vocabulary/spiece.model"


@dataclass(frozen=True)
class Training:
    """A cell with a seed, and its run directory below the grid's directory."""

    cell: Cell
    seed: int
    directory: Path

    @property
    def name(self) -> str:
        """Name in messages."""
        return f"{self.cell.row}, {self.cell.stage}, seed {self.seed}"

    @property
    def done(self) -> bool:
        """Whether the training and its evaluation are complete and the costs are written."""
        return (self.directory / DONE).is_file()


def trainings(grid: Grid, directory: Path) -> list[Training]:
    """Return all trainings, ordered by seed, so that an interrupted grid has complete seeds."""
    return [Training(cell, seed, place(directory, cell.name, seed)) for seed in grid.seeds for cell in grid.cells]


def place(directory: Path, name: str, seed: int) -> Path:
    """Return the run directory of a cell's training with a seed."""
    return directory / "cells" / name / f"seed-{seed}"


def experiment_of(grid: Grid, training: Training, directory: Path) -> Experiment:
    """Return the cell's experiment with the seed, the grid's vocabulary and the run to start from."""
    experiment = replace(training.cell.experiment, seed=training.seed)
    if grid.vocabulary is not None:
        experiment = replace(experiment, data=replace(experiment.data, vocabulary=vocabulary_of(directory)))
    if training.cell.after is not None:
        source = place(directory, training.cell.after, training.seed)
        experiment = replace(experiment, start_from=replace(experiment.start_from, run=str(source.resolve())))
    return experiment


def vocabulary_of(directory: Path) -> SentencePiece:
    """Return the grid's vocabulary."""
    return SentencePiece(path=str((directory / VOCABULARY).resolve()), extra_ids=100)


def train_vocabulary(grid: Grid, directory: Path, log: Callable[[str], None]) -> None:
    """Train the grid's vocabulary, if it has one that does not exist yet. One process trains it, the others wait."""
    wanted = grid.vocabulary
    path = directory / VOCABULARY
    if wanted is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return
        from t2t.tasks.vocabulary_training import train_vocabulary as train_it

        partial = path.with_name("partial.model")
        partial.unlink(missing_ok=True)
        log(f"training a vocabulary of {wanted.size:,} ids on {wanted.task}")
        train_it(wanted.task, size=wanted.size, out=partial, examples=wanted.examples)
        partial.rename(path)


def check_same(grid: Grid, directory: Path) -> None:
    """Raise UserError if a finished training has another configuration than its cell of the grid."""
    for training in trainings(grid, directory):
        if not training.done:
            continue
        record = read_record(training.directory)
        changed = [
            line
            for line in config.differences(record.experiment, experiment_of(grid, training, directory))
            if not line.startswith(("data.vocabulary.path:", "start_from.run:"))
        ]
        if changed:
            raise UserError(
                f"{directory} (--dir) has a grid with another configuration: {training.cell.name} differs in {'; '.join(changed)}."
                " Give another --dir, or the same options to resume."
            )


class Worker:
    """Trains cells one after the other. Several workers can run in processes of one machine; each takes trainings that no other worker has."""

    def __init__(self, grid: Grid, directory: Path, recipe: str, code: OwnCode, log: Callable[[str], None]) -> None:
        self._grid, self._directory, self._recipe, self._code, self._log = grid, directory, recipe, code, log
        self._all = trainings(grid, directory)
        self._started = time.time()

    def run(self) -> bool:
        """Train everything that is not done. Return whether a signal stopped it before the end.

        A training resumes from its last checkpoint. It starts only when the training that it starts from is done. If a training fails, the failure is
        logged, the traceback is written to its directory, and it is skipped together with the trainings that start from it. The next run tries again.
        """
        with StopOnSignal() as stop:  # a running training handles signals itself and stops after a step
            while not stop.asked:
                left = [training for training in self._all if not training.done and not self._hopeless(training)]
                if not left:
                    return False
                if self._take(left):
                    return True
        return True

    def _take(self, left: list[Training]) -> bool:
        """Train the first training that can start and that no other process has, or wait. Return whether a signal stopped it."""
        for training in left:
            before = self._before(training)
            if before is not None and not before.done:
                continue
            with _claimed(training.directory) as mine:
                if mine and not training.done and not self._failed(training):
                    return self._train(training)
        time.sleep(WAIT)
        return False

    def failures(self) -> list[Training]:
        """Return the trainings that failed since this worker started."""
        return [training for training in self._all if self._failed(training)]

    def _before(self, training: Training) -> Training | None:
        name = training.cell.after
        if name is None:
            return None
        return Training(self._grid.cell(name), training.seed, place(self._directory, name, training.seed))

    def _failed(self, training: Training) -> bool:
        note = training.directory / FAILURE
        return note.is_file() and note.stat().st_mtime >= self._started

    def _hopeless(self, training: Training) -> bool:
        before = self._before(training)
        return self._failed(training) or (before is not None and self._hopeless(before))

    def _train(self, training: Training) -> bool:
        """Run one training. Return whether a signal stopped it."""
        number = f"[{self._all.index(training) + 1}/{len(self._all)}]"
        experiment = experiment_of(self._grid, training, self._directory)
        began = time.time()
        self._log(f"{number} {training.name}")
        (training.directory / FAILURE).unlink(missing_ok=True)
        try:
            outcome = run_training(
                training.directory,
                experiment,
                recipe=self._recipe,
                observer=contextlib.nullcontext(Lines(number, self._log)),
                code=self._code,
                claimed=True,
                began=began,
            )
        except UserError as error:
            raise UserError(f"{training.cell.name}: {error}") from error
        except Exception as error:
            note = "".join(traceback.format_exception(error))
            (training.directory / FAILURE).write_text(note, encoding="utf-8")
            self._log(f"{number} failed, see {training.directory / FAILURE}: {type(error).__name__}: {error}")
            return False
        finally:
            jax.clear_caches()  # free the programs of this cell; the compilation cache on disk keeps them for other cells
        if not outcome.stopped:
            decoding = [decoding_costs(experiment.model, tokens) for tokens in training.cell.decoded]
            costs = Costs.of(experiment, training.directory, decoding)
            partial = training.directory / f"{DONE}.partial"
            partial.write_text(config.dumps(costs), encoding="utf-8")
            partial.replace(training.directory / DONE)
        return outcome.asked


@contextlib.contextmanager
def _claimed(directory: Path) -> Iterator[bool]:
    """Try to lock the training; yield whether this process has the lock."""
    claim = Claim(directory)
    try:
        claim.take()
    except UserError:
        yield False
        return
    try:
        yield True
    finally:
        claim.release()
