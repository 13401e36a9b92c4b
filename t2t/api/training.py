"""`t2t.train`: training from Python."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2t.api.session import prepare
from t2t.errors import UserError

if TYPE_CHECKING:
    from t2t.api.run import Run
    from t2t.train.callbacks import Callback
    from t2t.train.experiment import Experiment
    from t2t.vocabularies import Vocabulary

STOPPED = 75
"""Exit code after a stop by a signal, with everything saved (sysexits.h: EX_TEMPFAIL)."""


def train(
    what: str | Experiment | Run,
    /,
    *,
    dir: str | os.PathLike[str] | None = None,
    task: str | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    vocabulary: str | os.PathLike[str] | Vocabulary | None = None,
    options: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    imports: Sequence[str] = (),
    trust_code: bool = False,
    **overrides: Any,
) -> Run:
    """Train in a run directory, or resume the run in it, and return the trained run.

    Args:
      what: a recipe's name ("t5:quickstart", "from:RUN", "file.py:function"), an experiment, or a run. A run without `dir` is resumed.
        A run with `dir` gives the initial parameters of a new run.
      dir: the run's directory.
      task: the task to train on (`data.task`). It is also evaluated if the recipe evaluates its training task.
      steps: number of updates.
      batch_size: rows per batch (`data.batch_size`).
      seed: seed for parameters, dropout and the order of the data.
      vocabulary: a vocabulary, or a vocabulary file (.model, .txt, .json). The default is the task's vocabulary.
      options: other values by name: {"optimizer.schedule.peak": 1e-3}. The names are those of the options of `t2t train`.
      callbacks: objects to call during training, see `t2t.Callback`.
      progress: show progress on standard error: a bar on a terminal, lines elsewhere.
      imports: modules and files that register your own tasks or configuration classes. The run keeps a copy of them.
      trust_code: run the code that the run keeps. Use it only for runs of people you trust.
      overrides: further values of the experiment by name: log_every=20, checkpoint_every=500, optimizer=AdamW(...).

    Returns the run at its newest checkpoint, also after a callback has stopped the training. A signal (SIGINT, SIGTERM, SIGUSR1, SIGHUP) stops
    training after the current step and saves. Then SIGINT raises KeyboardInterrupt; the others raise SystemExit(75).
    Outside the main thread, signals are not handled.

    Raises:
      UserError: the recipe or an option is unknown, a value is not valid, or the directory belongs to another run.
    """
    prepare()
    from t2t.api import overrides as changes
    from t2t.api.assembly import Silent, run_training
    from t2t.api.progress import Progress
    from t2t.api.run import Run
    from t2t.api.user_code import imports as own
    from t2t.api.user_code import run_code
    from t2t.paths import check_directory
    from t2t.train.run import SavedRun

    with run_code.trusting(trust_code):
        own.use(imports, option="imports")
        directory = _directory(what, dir)
        if directory is not None:
            check_directory(str(directory), "dir")
            run_code.ready(directory)
        recipe, experiment = _recipe_and_experiment(what, directory)
        if directory is None:
            raise UserError(f't2t.train({recipe!r}): dir is missing: it names the run\'s directory, dir="runs/mine".')
        named = {"steps": steps, "batch_size": batch_size, "seed": seed, "data.task": task}
        values = {name: value for name, value in named.items() if value is not None} | overrides
        values = _joined(values, options or {})
        if vocabulary is not None:
            values = _joined(values, {"data.vocabulary": _vocabulary(vocabulary)})
        evaluated = experiment.evaluation.tasks
        if task is not None and evaluated == (experiment.data.task,) and "evaluation.tasks" not in values:
            values["evaluation.tasks"] = (task,)
        experiment = changes.overridden(experiment, values)
        if isinstance(what, SavedRun):
            what.forget_parameters()
        outcome = run_training(
            directory,
            experiment,
            recipe=recipe,
            observer=Progress() if progress else contextlib.nullcontext(Silent()),
            callbacks=tuple(callbacks),
        )
        if outcome.signal is not None:
            print(f"stopped at step {outcome.step} with everything saved; the same call resumes", file=sys.stderr)
            if outcome.signal is signal.SIGINT:
                raise KeyboardInterrupt
            raise SystemExit(STOPPED)
        return Run.load(directory)


def _directory(what: object, dir: str | os.PathLike[str] | None) -> Path | None:
    from t2t.train.run import SavedRun

    if dir is not None:
        return Path(dir)
    return what.directory if isinstance(what, SavedRun) else None


def _recipe_and_experiment(what: str | Experiment | Run, directory: Path | None) -> tuple[str, Experiment]:
    """Return the recipe's name for run.json, and the experiment before the overrides."""
    from t2t.api.earlier_recipes import as_begun
    from t2t.api.quiet import import_tensorflow
    from t2t.api.recipes import FROM, find, from_run, is_own
    from t2t.train.experiment import Experiment
    from t2t.train.run import SavedRun

    if isinstance(what, Experiment):
        return "t2t.train", what
    if isinstance(what, SavedRun):
        if directory is not None and directory.resolve() == what.directory.resolve():
            return what.record.recipe, what.experiment
        experiment = from_run(str(what.directory))
        return f"{FROM}{what.directory}", replace(experiment, start_from=replace(experiment.start_from, step=what.step))
    if not isinstance(what, str):
        raise UserError(
            f't2t.train: {what!r} is not a recipe\'s name, an Experiment or a Run. Nearest: "t5:quickstart".'
        )
    if is_own(what):
        import_tensorflow()  # user recipes often register tasks
    experiment = find(what)()
    return what, experiment if directory is None else as_begun(what, experiment, directory)


def _joined(values: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    if both := sorted(values.keys() & more.keys()):
        raise UserError(f"t2t.train: {both[0]} is set twice: as an argument and in options.")
    return {**values, **more}


def _vocabulary(value: str | os.PathLike[str] | Vocabulary) -> Vocabulary:
    from t2t.api.vocabulary_file import vocabulary_of
    from t2t.vocabularies import Vocabulary

    return value if isinstance(value, Vocabulary) else vocabulary_of(os.fspath(value), "vocabulary")
