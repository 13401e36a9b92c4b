"""Run a training from its experiment to its end. Python, the command line and the grid all use `run_training`."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import jax

from t2t.api.chat import check_template
from t2t.api.quiet import register_tasks
from t2t.api.report import write_report
from t2t.api.user_code import known_code
from t2t.api.user_code.imports import own_code
from t2t.api.user_code.loading import check_tasks
from t2t.distributed.preflight import preflight
from t2t.train import teacher
from t2t.train.background_compiler import BackgroundCompiler
from t2t.train.callbacks import Callback
from t2t.train.claim import claimed_on_all
from t2t.train.experiment import Experiment, check, check_vocabulary
from t2t.train.host_memory import check_device
from t2t.train.loop import Outcome, train
from t2t.train.own_code import OwnCode
from t2t.train.records import Observer
from t2t.train.run import RunRecord, newest_step, open_run_on_all


class Silent:
    """An observer that shows nothing."""

    def on_start(self, total: int, start: int) -> None:
        """Training starts."""

    def on_log(self, step: int, metrics: dict[str, float]) -> None:
        """Metrics of the steps since the last call."""

    def on_eval(self, step: int, results: list) -> None:
        """An evaluation is complete."""

    def on_message(self, text: str) -> None:
        """A line of text."""

    def on_end(self) -> None:
        """Training has ended."""


def run_training(
    directory: Path,
    experiment: Experiment,
    *,
    recipe: str,
    observer: AbstractContextManager[Observer],
    code: OwnCode | None = None,
    claimed: bool = False,
    began: float | None = None,
    imported: float = 0.0,
    callbacks: Sequence[Callback] = (),
) -> Outcome:
    """Train an experiment in a run directory, or resume the run in it, and write the report. Call it on all processes of a run.

    All checks come before the first write. The programs are compiled in a thread while TensorFlow is imported.

    Args:
      recipe: the name of the experiment's source, for run.json.
      observer: shows the training on process 0. It is entered after all checks except those of the data.
      code: the user code that the run keeps. The default is all imported user code.
      claimed: whether the caller already holds the run directory's lock.
      began: start time of the process (time.time()), for the ledger.
      imported: seconds of imports before this call, for the ledger.
      callbacks: user callbacks to call during training.

    Raises:
      UserError: the configuration is not valid, or the directory belongs to another run or to a training in progress.
    """
    check(experiment, jax.device_count())
    check_device(experiment.optimizer, jax.local_devices()[0])
    compiler = None
    if jax.process_count() == 1 and "tensorflow" not in sys.modules:  # the import leaves a core free for some seconds
        compiler = BackgroundCompiler(experiment, newest=newest_step(directory))
    before = time.perf_counter()
    register_tasks()
    imported += time.perf_counter() - before
    from t2t.data.answers import check_model, check_objective
    from t2t.data.pipeline import task_vocabulary
    from t2t.data.registry import converter_of, find
    from t2t.data.survival import lost_of

    for run in (directory, *map(Path, experiment.start_from.runs)):
        check_tasks([experiment.data.task, *(experiment.evaluation.tasks or ())], run)
    check_model(experiment.data, experiment.model)
    objective = experiment.objective
    check_objective(experiment.data, type(objective).__name__, [extra.name for extra in objective.extras])
    converter_of(experiment.data, experiment.model.kind, find(experiment.data.task), objective.converter)
    vocabulary = task_vocabulary(experiment.data)
    check_vocabulary(experiment, vocabulary)
    teacher.check_vocabulary(experiment, vocabulary)
    template = check_template(experiment, vocabulary)
    preflight(experiment, directory)
    own = own_code() if code is None else code
    record = RunRecord(
        recipe=recipe,
        experiment=experiment,
        vocabulary=vocabulary,
        imports=own.imports,
        code=own.checksums,
        chat_template=template,
    )
    known_code.remember(own.imports, own.checksums)
    leads = jax.process_index() == 0
    with contextlib.nullcontext() if claimed else claimed_on_all(directory):
        record = open_run_on_all(directory, record, own.files)
        with observer if leads else contextlib.nullcontext(Silent()) as shown:
            for line in lost_of(experiment.resolved_data(), experiment.model.kind) if leads else ():
                shown.on_message(f"note: {line}")
            outcome = train(
                directory, record, shown, began=began, imported=imported, compiler=compiler, callbacks=callbacks
            )
        if leads:
            write_report(directory)
    return outcome
