"""Training a grid's cells: each is a run directory of its own, so that what is done stays done, and what was cut off goes on."""

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
from t2t.launch.grid.design import Cell, Grid
from t2t.launch.grid.lines import Lines
from t2t.train.claim import Claim
from t2t.train.experiment import Experiment
from t2t.train.own_code import OwnCode
from t2t.train.run import read_record
from t2t.train.stop import StopOnSignal
from t2t.vocabularies import SentencePiece

WAIT = 1.0
"""Seconds between two looks for a cell that another process has made ready."""
FAILURE = "failure.txt"
DONE = "done.json"
VOCABULARY = "vocabulary/spiece.model"


@dataclass(frozen=True)
class Training:
    """A cell with a seed, in its place below the grid's directory."""

    cell: Cell
    seed: int
    directory: Path

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"{self.cell.row}, {self.cell.stage}, seed {self.seed}"

    @property
    def done(self) -> bool:
        """Whether it was trained to its end and evaluated, and what it cost was counted."""
        return (self.directory / DONE).is_file()


def trainings(grid: Grid, directory: Path) -> list[Training]:
    """Return all trainings: one seed after the other, so that a grid that is cut off has whole seeds."""
    return [Training(cell, seed, place(directory, cell.name, seed)) for seed in grid.seeds for cell in grid.cells]


def place(directory: Path, name: str, seed: int) -> Path:
    """Return where a cell's training with a seed lies."""
    return directory / "cells" / name / f"seed-{seed}"


def experiment_of(grid: Grid, training: Training, directory: Path) -> Experiment:
    """Return the whole of what is trained: the cell's experiment with its seed, vocabulary and beginning filled in."""
    made = replace(training.cell.experiment, seed=training.seed)
    if grid.vocabulary is not None:
        made = replace(made, data=replace(made.data, vocabulary=vocabulary_of(directory)))
    if training.cell.after is not None:
        source = place(directory, training.cell.after, training.seed)
        made = replace(made, start_from=replace(made.start_from, run=str(source.resolve())))
    return made


def vocabulary_of(directory: Path) -> SentencePiece:
    """Return the grid's vocabulary."""
    return SentencePiece(path=str((directory / VOCABULARY).resolve()), extra_ids=100)


def train_vocabulary(grid: Grid, directory: Path, say: Callable[[str], None]) -> None:
    """Train the grid's vocabulary where it has one and it is not there yet; of several processes one does it and the others wait."""
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
        say(f"training a vocabulary of {wanted.size:,} ids on {wanted.task}")
        train_it(wanted.task, size=wanted.size, out=partial, examples=wanted.examples)
        partial.rename(path)


def check_same(grid: Grid, directory: Path) -> None:
    """Raise UserError where a finished training is of another configuration than the grid's cell."""
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
                f"{directory} (--dir) holds a grid of another configuration; {training.cell.name} differs in {'; '.join(changed)}."
                " Give another --dir, or the same options to go on."
            )


class Worker:
    """Trains cells one after the other. Several may do so at once, in processes of one machine: each takes what no other has."""

    def __init__(self, grid: Grid, directory: Path, recipe: str, code: OwnCode, say: Callable[[str], None]) -> None:
        self._grid, self._directory, self._recipe, self._code, self._say = grid, directory, recipe, code, say
        self._all = trainings(grid, directory)
        self._began = time.time()

    def run(self) -> bool:
        """Train what is not done yet; return whether it was asked to stop before the end.

        A training goes on from its last checkpoint, and begins when the one whose parameters it takes is done. One that fails is told, its
        traceback kept in its folder, and left; with it those that would go on from it. The next time it is tried again.
        """
        with StopOnSignal() as stop:  # a training under way has its own, and stops after a step
            while not stop.asked:
                left = [training for training in self._all if not training.done and not self._hopeless(training)]
                if not left:
                    return False
                if self._take(left):
                    return True
        return True

    def _take(self, left: list[Training]) -> bool:
        """Train the first that can begin and that no other process has, or wait a little; return whether it was asked to stop."""
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
        """Return those that failed since this began."""
        return [training for training in self._all if self._failed(training)]

    def _before(self, training: Training) -> Training | None:
        name = training.cell.after
        if name is None:
            return None
        return Training(self._grid.cell(name), training.seed, place(self._directory, name, training.seed))

    def _failed(self, training: Training) -> bool:
        note = training.directory / FAILURE
        return note.is_file() and note.stat().st_mtime >= self._began

    def _hopeless(self, training: Training) -> bool:
        before = self._before(training)
        return self._failed(training) or (before is not None and self._hopeless(before))

    def _train(self, training: Training) -> bool:
        """Train one; return whether it was asked to stop."""
        number = f"[{self._all.index(training) + 1}/{len(self._all)}]"
        experiment = experiment_of(self._grid, training, self._directory)
        began = time.time()
        self._say(f"{number} {training.name}")
        (training.directory / FAILURE).unlink(missing_ok=True)
        try:
            outcome = run_training(
                training.directory,
                experiment,
                recipe=self._recipe,
                observer=contextlib.nullcontext(Lines(number, self._say)),
                code=self._code,
                claimed=True,
                began=began,
            )
        except UserError as error:
            raise UserError(f"{training.cell.name}: {error}") from error
        except Exception as error:
            note = "".join(traceback.format_exception(error))
            (training.directory / FAILURE).write_text(note, encoding="utf-8")
            self._say(f"{number} failed, see {training.directory / FAILURE}: {type(error).__name__}: {error}")
            return False
        finally:
            jax.clear_caches()  # programs of this cell; what others can use is in the cache on disk
        if not outcome.stopped:
            costs = Costs.of(experiment, training.directory)
            partial = training.directory / f"{DONE}.partial"
            partial.write_text(config.dumps(costs), encoding="utf-8")
            partial.replace(training.directory / DONE)
        return outcome.asked


@contextlib.contextmanager
def _claimed(directory: Path) -> Iterator[bool]:
    """Whether this process, and no other, has the training while inside."""
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
